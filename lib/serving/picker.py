"""Build a session by picking items: recommendations and attention follow.

Needs a browser. A notebook that runs headless, under papermill or nbval, shows a static
example in its place, so its outputs stay what they are.
"""

import os

import matplotlib.pyplot as plt

from lib.records import plots
from lib.serving import recommend


def wanted(interactive="auto"):
    """Whether widgets are to be shown.

    Args:
        interactive: ``"yes"``, ``"no"``, or ``"auto"``: where a Jupyter server started
            this kernel for somebody's browser and ipywidgets is installed.
    """
    if interactive != "auto":
        return interactive == "yes"
    try:
        import ipywidgets  # noqa: F401
    except ImportError:
        return False
    return "JPY_SESSION_NAME" in os.environ  # a server sets it, papermill does not


def bars(trained, session, titles):
    """The attention weights of a session's clicks, as bars, oldest at the top.

    Args:
        trained: a ``lib.serving.trained.Trained`` of a STAMP with attention.
        session: raw ids, oldest click first.
        titles: raw id -> text.

    Returns:
        ``(fig, ax)``.
    """
    clicks, weights = recommend.attention(trained, session)
    places = range(len(clicks))
    fig, ax = plt.subplots(figsize=(6.4, 0.8 + 0.3 * len(clicks)))
    ax.barh(places, weights, color=plots.DARK)
    ax.set_yticks(places)
    ax.set_yticklabels([titles.get(raw, str(raw)) for raw in clicks])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("attention weight")
    return fig, ax


def show(trained, session, titles, k=10):
    """Prints the recommendations for a session and draws its attention weights."""
    print(recommend.recommend(trained, session, k, titles=titles))
    if trained.model.attention:
        bars(trained, session, titles)
        plt.show()


class Picker:
    """Widgets: a list to pick from, the session so far, and what follows from it.

    Args:
        trained: a ``lib.serving.trained.Trained`` of a STAMP.
        items: raw ids to pick from.
        titles: raw id -> text.
        session: raw ids to start with.
        k: how many recommendations.
    """

    def __init__(self, trained, items, titles, session=(), k=10):
        import ipywidgets

        self.trained, self.titles, self.k = trained, titles, k
        self.session = list(session)
        options = [("pick an item ...", None)]
        options += [(titles.get(raw, str(raw)), raw) for raw in items]
        self.choice = ipywidgets.Dropdown(options=options, description="click")
        self.clear = ipywidgets.Button(description="start again")
        self.output = ipywidgets.Output()
        self.choice.observe(self.on_choice, "value")
        self.clear.on_click(self.on_clear)
        top = ipywidgets.HBox([self.choice, self.clear])
        self.box = ipywidgets.VBox([top, self.output])
        self.update()

    def on_choice(self, change):
        if change["new"] is not None:
            self.session.append(change["new"])
            self.update()
            self.choice.index = 0  # so that the same item can be picked again

    def on_clear(self, _):
        self.session = []
        self.update()

    def update(self):
        """Shows the session and what the model makes of it."""
        clicked = ", ".join(self.titles.get(raw, str(raw)) for raw in self.session)
        with self.output:
            self.output.clear_output(wait=True)
            print("session:", clicked or "empty")
            if self.session:
                show(self.trained, self.session, self.titles, self.k)

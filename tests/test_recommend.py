"""Recommendations are the best of the whole catalogue, for a session or a file."""

import gzip
import json
import re
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import InputError
from lib.hardware.tensorflow import tf
from lib.models import mf, published, stamp, top_k
from lib.serving import recommend, scorers, trained

N_ITEMS, MAXLEN = 150, 5
RNG = np.random.default_rng(0)
RAW = RNG.permutation(10_000)[:N_ITEMS] + 7  # raw ids without order


def made(scale=0.0, attention=True, ids=RAW):
    model = stamp.STAMP(N_ITEMS, 8, MAXLEN, attention, scale, seed=3)
    model.build(None)
    drawn = np.random.default_rng(1)
    model.set_weights([drawn.normal(size=w.shape) for w in model.get_weights()])
    return trained.Trained(model, ids, np.array([]), "a STAMP")


def made_mf(**options):
    model = mf.MF(6, N_ITEMS, 3.5, 4, **options)
    model.build(None)
    drawn = np.random.default_rng(2)
    model.set_weights([drawn.normal(size=w.shape) for w in model.get_weights()])
    return trained.Trained(model, RAW, np.arange(6) * 100, "an MF")


@pytest.fixture(scope="module")
def ours():
    return made()


compiled = tf.function(
    top_k.find_best,
    input_signature=[tf.TensorSpec([3, None]), tf.TensorSpec([], tf.int32)],
)


@given(
    n=st.integers(1, 5 * top_k.BLOCK),
    share=st.floats(0, 1),
    levels=st.sampled_from([2, 9, 10**6]),
    seed=st.integers(0, 9),
)
def test_top_k_is_a_stable_sort_of_all_scores(n, share, levels, seed):
    k = max(int(share * n), 1)
    drawn = np.random.default_rng(seed).integers(0, levels, (3, n)).astype("f4")
    drawn[0, : n // 2] = -np.inf
    order = np.argsort(-drawn, axis=1, kind="stable")[:, :k]
    for scores, columns in (top_k.find_best(drawn, k), compiled(drawn, k)):
        np.testing.assert_array_equal(columns, order)
        np.testing.assert_array_equal(scores, np.take_along_axis(drawn, order, 1))


@pytest.mark.parametrize("scale", [0.0, 12.0])
@pytest.mark.parametrize("length", [1, 3, MAXLEN, 23])
def test_a_session_gets_the_items_with_the_highest_scores(scale, length):
    ours = made(scale)
    session = np.random.default_rng(length).choice(RAW, length)
    found = recommend.recommend(ours, session, 20)
    numbers = [int(np.flatnonzero(raw == RAW)[0]) + 1 for raw in session]
    window = np.zeros((1, MAXLEN), np.int32)
    window[0, -min(length, MAXLEN) :] = numbers[-MAXLEN:]
    scores = np.asarray(ours.model(window))[0]
    assert found.ids == RAW[np.argsort(-scores)[:20]].tolist()
    np.testing.assert_allclose(found.scores, np.sort(scores)[::-1][:20], rtol=1e-4)


def test_exclude_seen_leaves_out_the_clicked_items_and_no_others(ours):
    session = recommend.recommend(ours, RAW[:1], 30).ids[:29] + RAW[:1].tolist()
    whole = recommend.recommend(ours, session, N_ITEMS).ids
    assert sorted(whole) == sorted(RAW)
    rest = recommend.recommend(ours, session, N_ITEMS, exclude_seen=True)
    assert rest.ids == [raw for raw in whole if raw not in session]
    assert len(rest.scores) == len(rest.titles) == N_ITEMS - len(set(session))
    assert np.isfinite(rest.scores).all()


def test_unknown_items_change_nothing_and_are_reported(ours):
    some = RAW[:3].tolist()
    plain = recommend.recommend(ours, some, 5)
    strange = [some[0], -5, "shoe", some[1], None, some[2], 10**25]
    found = recommend.recommend(ours, strange, 5)
    assert found.ids == plain.ids
    assert found.ignored == [-5, "shoe", None, 10**25]
    assert plain.ignored == []


def test_titles_stand_where_they_are_known(ours):
    best = recommend.recommend(ours, RAW[:2], 2).ids
    found = recommend.recommend(ours, RAW[:2], 2, titles={best[0]: "a red shoe"})
    assert found.titles == ["a red shoe", str(best[1])]
    assert str(found).splitlines()[0].endswith("  a red shoe")
    odd = recommend.recommend(ours, RAW[:2], 2, titles={best[1]: "a\nred\u3000shoe"})
    assert str(odd).splitlines()[1].endswith(r"  'a\nred\u3000shoe'")


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_user_gets_the_highest_predicted_ratings(use_bias):
    ours = made_mf(use_bias=use_bias)
    pairs = np.stack([np.full(N_ITEMS, 2), np.arange(N_ITEMS)], 1).astype(np.int32)
    rating = np.asarray(ours.model(pairs))[:, 0]
    found = recommend.recommend(ours, 200, 30)
    assert found.ids == RAW[np.argsort(-rating)[:30]].tolist()
    expected = np.clip(np.sort(rating)[::-1][:30], 1, 5)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)
    seen = found.ids[:25:2]
    rest = recommend.recommend(ours, 200, 10, exclude_seen=True, seen=[*seen, -1])
    assert rest.ids == [raw for raw in found.ids if raw not in seen][:10]


@pytest.mark.parametrize(
    ("make", "arguments", "sentence"),
    [
        (
            made,
            {"session_or_user": [-1, -2]},
            "none of the 2 items of this session, such as -1, is known to a ST",
        ),
        (made, {"session_or_user": []}, "none of the 0 items of this session is known"),
        (made, {"session_or_user": "12 13"}, "session='12 13': pass a list of raw ids"),
        (made, {"session_or_user": 12}, "session=12: pass a list of raw ids"),
        (
            made,
            {"session_or_user": RAW, "k": 0},
            "k=0: choose a whole number, 1 or more",
        ),
        (made, {"session_or_user": RAW, "k": 2.0}, "k=2.0: choose a whole number"),
        (
            made,
            {"session_or_user": RAW, "exclude_seen": "no"},
            'exclude_seen="no": allowed are "True", "False"',
        ),
        (
            made_mf,
            {"session_or_user": 7},
            "none of the 1 users asked for, such as 7, is known to an MF: it was",
        ),
        (made_mf, {"session_or_user": [0]}, r"such as \[0\], is known to an MF"),
        (
            made_mf,
            {"session_or_user": 0, "exclude_seen": True},
            "does not keep ratings",
        ),
        (made_mf, {"session_or_user": 0, "seen": 3}, "seen=3: pass a list of raw ids"),
    ],
)
def test_an_invalid_question_is_refused_in_one_sentence(make, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        recommend.recommend(make(), **arguments)


@pytest.mark.parametrize(
    "port", [published.STAMP(N_ITEMS, 4), published.MF(2, N_ITEMS, 4)]
)
def test_a_published_port_is_refused_for_its_scores_are_others(port):
    ours = trained.Trained(port, RAW, np.arange(2), "a port")
    with pytest.raises(
        InputError, match="a port is a lib.models.published.*: this needs"
    ):
        recommend.recommend(ours, RAW[:2])


def test_attention_weights_are_those_of_the_window(ours):
    session = [RAW[9], -1, *RAW[:7]]
    clicks, weights = recommend.attention(ours, session)
    assert clicks == RAW[2:7].tolist()
    window = np.array([[3, 4, 5, 6, 7]], np.int32)
    x, mask = stamp.look_up(ours.model.embedding, window)
    own = stamp.attend(ours.model.named_weights, x, mask, np.mean(x, 1), x[:, -1, :])
    np.testing.assert_allclose(weights, np.asarray(own)[0, :, 0], rtol=1e-5)
    with pytest.raises(InputError, match="a STAMP has no attention"):
        recommend.attention(made(attention=False), session)


def sessions_of(seed, n):
    """Sessions of 0 to 12 raw ids, some unknown."""
    drawn = np.random.default_rng(seed)
    choice = np.concatenate([RAW, -RAW[:40]])
    return [drawn.choice(choice, drawn.integers(0, 13)).tolist() for _ in range(n)]


def write_sessions(path, some):
    """Writes a file of sessions, as its format says."""
    text = "".join(json.dumps({"session": session}) + "\n" for session in some)
    pack = gzip.compress if path.suffix == ".gz" else bytes
    path.write_bytes(pack(text.encode()))


def read_answers(path):
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.split("\n")[:-1]]


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("exclude_seen", [False, True])
def test_a_file_gets_what_each_of_its_sessions_gets(
    ours, tmp_path, ending, exclude_seen
):
    some = sessions_of(1, recommend.BATCH + 30)
    source, target = tmp_path / f"in.txt{ending}", tmp_path / "new" / f"out{ending}"
    write_sessions(source, some)
    counted = recommend.recommend_file(ours, source, target, 7, exclude_seen)
    answers = read_answers(target)
    assert len(answers) == len(some) == counted["sessions"]
    known = set(RAW.tolist())
    is_empty = [not answer["ids"] for answer in answers]
    assert is_empty == [not known & set(row) for row in some]
    for row, answer in list(zip(some, answers))[::11]:
        if not answer["ids"]:
            assert answer["scores"] == []
            continue
        expected = recommend.recommend(ours, row, 7, exclude_seen)
        assert answer["ids"] == expected.ids
        np.testing.assert_allclose(answer["scores"], expected.scores, rtol=1e-4)
    assert counted["clicks"] == sum(map(len, some))
    assert counted["ignored"] == sum(raw not in known for row in some for raw in row)
    assert counted["without_known_items"] == sum(is_empty) > 0


ODD = [
    "two words",
    "a, b",
    "a\nb",
    "a\r",
    '"',
    "\\",
    "a\u00a0b",
    "\u3000",
    " x ",
    "",
    "007",
]
ODD += [
    "-1",
    "\u2028",
    "\ufeff",
    "12345678901234567890",
    "{}",
    "null",
    "é",
    "🍏",
    "a:1.5",
]


@pytest.mark.parametrize(
    "ids",
    [
        np.array([*ODD, *(f"item {k}" for k in range(N_ITEMS - len(ODD)))]),
        np.arange(-1, N_ITEMS - 1),
        2**64 - 1 - np.arange(N_ITEMS, dtype=np.uint64) * 10**17,
        np.arange(N_ITEMS) + 0.5,
    ],
    ids=["text", "minus one", "uint64", "fractions"],
)
def test_every_id_survives_the_files(tmp_path, ids):
    ours = made(ids=ids)
    some = [[raw] for raw in ids.tolist()]
    write_sessions(tmp_path / "in", some)
    counted = recommend.recommend_file(ours, tmp_path / "in", tmp_path / "out", N_ITEMS)
    assert counted["ignored"] == 0
    for (raw,), answer in zip(some, read_answers(tmp_path / "out")):
        expected = recommend.recommend(ours, [raw], N_ITEMS)
        scores = dict(zip(answer["ids"], answer["scores"]))  # nearly equal ones may
        assert scores.keys() == set(ids.tolist())  # change places in another batch
        own = [scores[raw] for raw in expected.ids]
        np.testing.assert_allclose(own, expected.scores, rtol=1e-4, atol=1e-4)


def test_numbers_and_their_texts_are_the_same_id_in_a_file(ours, tmp_path):
    first, second = RAW[:2].tolist()
    asked = [[first, second], [str(first), float(second)]]
    write_sessions(tmp_path / "in", [*asked, [first, True, None, [second]]])
    counted = recommend.recommend_file(ours, tmp_path / "in", tmp_path / "out")
    plain, same, _ = read_answers(tmp_path / "out")
    assert plain == same
    assert counted["ignored"] == 3


@pytest.mark.parametrize(
    "line",
    [b"1 2 3", b"[1, 2]", b'{"session": "abc"}', b'{"items": [1]}', b"PAR1\0\0", b"7",
     b'{"session": ["\xff"]}', b"[" * 100_000],
)  # fmt: skip
def test_a_line_that_is_no_session_is_named(ours, tmp_path, line):
    path = tmp_path / "sessions"
    path.write_bytes(b'{"session": [1]}\n\n' + line + b"\n")
    with pytest.raises(InputError, match="sessions, line 3: expected .* found '"):
        recommend.recommend_file(ours, path, tmp_path / "answers")
    assert not (tmp_path / "answers").exists()


def test_memory_does_not_grow_with_the_file(ours, tmp_path, monkeypatch):
    """Lists of sessions are short, and few of them are alive at the same time."""
    sizes, alive, most = [], weakref.WeakSet(), []
    read_sessions = recommend.read_sessions

    class Sessions(list):
        __hash__ = object.__hash__

    def watched(path):
        for sessions in map(Sessions, read_sessions(path)):
            sizes.append(len(sessions))
            alive.add(sessions)
            most.append(len(alive))
            yield sessions

    monkeypatch.setattr(recommend, "read_sessions", watched)
    write_sessions(tmp_path / "in", [[int(RAW[0])]] * (40 * recommend.BATCH + 1))
    recommend.recommend_file(ours, tmp_path / "in", tmp_path / "out", 3)
    assert sizes == [recommend.BATCH] * 40 + [1]
    assert max(most) <= 2 * recommend.AT_ONCE + 1


def test_a_broken_file_leaves_the_earlier_output(ours, tmp_path):
    cut = tmp_path / "in.gz"
    write_sessions(cut, [RAW.tolist()])
    packed = cut.read_bytes()
    for content, sentence in (
        (packed[:-9], r"in.gz cannot be read \(Compressed file ended"),
        (b"1 2 3", r"in.gz cannot be read \(Not a gzipped file"),
        (None, "in.gz cannot be read"),
    ):
        cut.unlink(missing_ok=True)
        if content is not None:
            cut.write_bytes(content)
        (tmp_path / "out").write_text("of yesterday")
        with pytest.raises(InputError, match=sentence):
            recommend.recommend_file(ours, cut, tmp_path / "out")
        assert (tmp_path / "out").read_text() == "of yesterday"
        assert not list(tmp_path.glob("*unfinished*"))


@pytest.mark.parametrize("target", ["a-folder", "a-file/out"])
def test_an_output_that_cannot_be_written_is_reported(ours, tmp_path, target):
    (tmp_path / "a-folder").mkdir()
    write_sessions(tmp_path / "a-file", [[1]])
    with pytest.raises(InputError, match="cannot be written"):
        recommend.recommend_file(ours, tmp_path / "a-file", tmp_path / target)


def test_files_are_for_sessions(tmp_path):
    with pytest.raises(
        InputError,
        match="an MF is a lib.models.mf.MF: this needs a STAMP of",
    ):
        recommend.recommend_file(made_mf(), tmp_path / "in", tmp_path / "out")


def test_an_empty_file_gives_an_empty_file(ours, tmp_path):
    (tmp_path / "in").write_bytes(b"")
    counted = recommend.recommend_file(ours, tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b""
    assert set(counted.values()) == {0}


@pytest.mark.parametrize("make", [made, made_mf])
def test_titles_of_the_sample_belong_to_its_items(make):
    ours = make()
    ids = np.arange(1, N_ITEMS + 1) if make is made_mf else 1000 + 37 * np.arange(150)
    some = trained.Trained(ours.model, ids, ours.user_ids, "sample")
    found = recommend.titles(some, "sample")
    assert found
    assert set(found) <= set(ids.tolist())
    form = r".+ \(\d{4}\) \[.+\]" if make is made_mf else r"item \d+ \(category \d+\)"
    assert all(re.fullmatch(form, text) for text in found.values())


def test_the_scorers_table_is_whole_blocks_and_its_spare_rows_never_win(ours):
    scorer = scorers.scorer_for(ours)
    assert scorer.table.shape[0] % top_k.BLOCK == 0
    assert scorer.table.shape[0] > N_ITEMS
    scores = scorer.scores(tf.zeros([2, 8])).numpy()
    assert (scores[:, :N_ITEMS] == 0).all()
    assert (scores[:, N_ITEMS:] == -np.inf).all()


def test_a_file_does_not_become_its_own_answer(ours, tmp_path):
    path = tmp_path / "sessions.txt"
    path.write_text(f"{RAW[0]}\n")
    (tmp_path / "link").symlink_to(path)
    for output in (path, tmp_path / "link"):
        with pytest.raises(InputError, match="choose another output"):
            recommend.recommend_file(ours, path, output)
    assert path.read_text() == f"{RAW[0]}\n"

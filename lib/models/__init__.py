"""STAMP and matrix factorization, with their losses, optimizers and top-k search."""

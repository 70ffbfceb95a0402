"""STAMP, matrix factorization and what they are computed with."""

"""Records of runs: parameters in, tables and figures out."""

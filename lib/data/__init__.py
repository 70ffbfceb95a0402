"""Data sets: finding, reading and preparing clicks and ratings."""

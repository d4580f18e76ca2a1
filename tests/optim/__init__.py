"""Tests of functrace.optim."""

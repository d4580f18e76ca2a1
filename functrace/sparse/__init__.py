"""Colours for the columns, rows, or both sides of a sparse matrix, so that few products with vectors determine it."""

from functrace.sparse.coloring import Coloring, color_columns, color_sides, color_symmetric

__all__ = ["Coloring", "color_columns", "color_sides", "color_symmetric"]

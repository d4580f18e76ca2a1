"""Files and data: pytrees saved and loaded, data sets read, batches of an epoch.

No trainer: a loop stays the user's own twenty lines.
"""

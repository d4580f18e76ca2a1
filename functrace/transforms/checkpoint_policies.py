"""What `checkpoint` keeps for the way back, by the names of `jax.checkpoint_policies`.

A policy is data, so a Program that holds one prints and reads back.

>>> save_only_these_names("attention", "hidden")
('names', 'attention', 'hidden')
"""

from __future__ import annotations

from functrace.control.checkpoint import Policy

nothing_saveable: Policy = "nothing"
everything_saveable: Policy = "everything"
dots_saveable: Policy = "dots"
checkpoint_dots = dots_saveable
dots_with_no_batch_dims_saveable: Policy = "dots_with_no_batch_dims"
checkpoint_dots_with_no_batch_dims = dots_with_no_batch_dims_saveable


def save_only_these_names(*names: str) -> Policy:
    """Keep values that `checkpoint_name` gave one of these names."""
    return ("names", *names)


def save_anything_except_these_names(*names: str) -> Policy:
    """Keep all but values that `checkpoint_name` gave one of these names."""
    return ("except", *names)


def save_any_names_but_these(*names: str) -> Policy:
    """Keep values that `checkpoint_name` gave a name which is none of these."""
    return ("other_names", *names)


def save_from_both_policies(policy_1: Policy, policy_2: Policy) -> Policy:
    """Keep what either policy keeps."""
    return ("either", policy_1, policy_2)

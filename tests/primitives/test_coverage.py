"""Which of JAX's primitives have rules of their own here, and which keep JAX's."""

import jax.extend
from jax import lax

import functrace  # noqa: F401  (defines the primitives)
from functrace.ir import Primitive
from functrace.primitives.collectives import Collective

# Equations of these names stay foreign: they keep the rules that JAX has for them.
FOREIGN = {
    "after_all": "a token",
    "create_token": "a token",
    "stage": "a marker of compilation",
    "dce_sink": "a marker of compilation",
    "device_put": "a placement",
    "sharding_constraint": "a placement",
    "cond": "imported as functrace's own",
    "scan": "imported as functrace's own",
    "while": "imported as functrace's own",
    "reduce": "holds a function",
    "reduce_window": "holds a function",
    "select_and_scatter": "holds a function",
    "custom_linear_solve": "imported as functrace's own",
    "custom_jvp_call": "holds functions",
    "custom_vjp_call": "holds functions",
    "approx_top_k": "holds a backend's choice",
    "fft": "linear, with JAX's transpose",
    "polynomial": "new in JAX, and for one backend",
    "ragged_all_to_all": "between devices only",
    "rng_bit_generator": "random bits",
    "rng_uniform": "random bits",
    "cholesky": "linear algebra",
}


def names_in_lax():
    """The names of the primitives that `jax.lax` shows."""
    found = [getattr(lax, name) for name in dir(lax) if name.endswith("_p")]
    return {p.name for p in found if isinstance(p, jax.extend.core.Primitive)}


def test_every_primitive_of_lax_is_own_or_listed():
    own = {name for definition in Primitive.named.values() for name in definition.jax_names}
    assert not names_in_lax() - own - set(FOREIGN)
    assert not own & set(FOREIGN)


def test_every_own_primitive_has_samples():
    for definition in Primitive.named.values():
        if not definition.stands_alone:
            continue
        if isinstance(definition, type) and issubclass(definition, Collective):
            samples = definition.axis_samples(None)
        else:
            samples = definition.samples(None) if isinstance(definition, type) else definition.samples()
        assert list(samples), definition.name


def test_rules_are_named_in_one_place():
    """No two definitions stand for one primitive of JAX's."""
    names = [name for definition in Primitive.named.values() for name in definition.jax_names]
    assert len(names) == len(set(names))

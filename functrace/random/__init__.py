"""jax.random, lifted."""

from __future__ import annotations

from jax import random

from functrace.tracing import lift

key_dtype = random.key_dtype
key_impl = random.key_impl

PRNGKey = lift(random.PRNGKey)
ball = lift(random.ball)
bernoulli = lift(random.bernoulli)
beta = lift(random.beta)
binomial = lift(random.binomial)
bits = lift(random.bits)
categorical = lift(random.categorical)
cauchy = lift(random.cauchy)
chisquare = lift(random.chisquare)
choice = lift(random.choice)
clone = lift(random.clone)
dirichlet = lift(random.dirichlet)
double_sided_maxwell = lift(random.double_sided_maxwell)
exponential = lift(random.exponential)
f = lift(random.f)
fold_in = lift(random.fold_in)
gamma = lift(random.gamma)
generalized_normal = lift(random.generalized_normal)
geometric = lift(random.geometric)
gumbel = lift(random.gumbel)
key = lift(random.key)
key_data = lift(random.key_data)
laplace = lift(random.laplace)
loggamma = lift(random.loggamma)
logistic = lift(random.logistic)
lognormal = lift(random.lognormal)
maxwell = lift(random.maxwell)
multinomial = lift(random.multinomial)
multivariate_normal = lift(random.multivariate_normal)
normal = lift(random.normal)
orthogonal = lift(random.orthogonal)
pareto = lift(random.pareto)
permutation = lift(random.permutation)
poisson = lift(random.poisson)
rademacher = lift(random.rademacher)
randint = lift(random.randint)
rayleigh = lift(random.rayleigh)
split = lift(random.split)
t = lift(random.t)
triangular = lift(random.triangular)
truncated_normal = lift(random.truncated_normal)
uniform = lift(random.uniform)
wald = lift(random.wald)
weibull_min = lift(random.weibull_min)
wrap_key_data = lift(random.wrap_key_data)

# Not in every version of jax.
if hasattr(random, "Key"):
    Key = random.Key  # pyright: ignore[reportAttributeAccessIssue]

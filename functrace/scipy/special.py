"""jax.scipy.special, lifted."""

from __future__ import annotations

from jax.scipy import special

from functrace.scipy.exponential import (
    exp1 as exp1,
    logsumexp as logsumexp,
    xlog1py as xlog1py,
    xlogy as xlogy,
)
from functrace.tracing import lift

bernoulli = lift(special.bernoulli)
bessel_jn = lift(special.bessel_jn)
beta = lift(special.beta)
betainc = lift(special.betainc)
betaln = lift(special.betaln)
boxcox = lift(special.boxcox)
boxcox1p = lift(special.boxcox1p)
comb = lift(special.comb)
dawsn = lift(special.dawsn)
digamma = lift(special.digamma)
entr = lift(special.entr)
erf = lift(special.erf)
erfc = lift(special.erfc)
erfcx = lift(special.erfcx)
erfinv = lift(special.erfinv)
expi = lift(special.expi)
expit = lift(special.expit)
expn = lift(special.expn)
factorial = lift(special.factorial)
fresnel = lift(special.fresnel)
gamma = lift(special.gamma)
gammainc = lift(special.gammainc)
gammaincc = lift(special.gammaincc)
gammaln = lift(special.gammaln)
gammasgn = lift(special.gammasgn)
hyp1f1 = lift(special.hyp1f1)
hyp2f1 = lift(special.hyp2f1)
i0 = lift(special.i0)
i0e = lift(special.i0e)
i1 = lift(special.i1)
i1e = lift(special.i1e)
kl_div = lift(special.kl_div)
log_ndtr = lift(special.log_ndtr)
log_softmax = lift(special.log_softmax)
loggamma = lift(special.loggamma)
logit = lift(special.logit)
multigammaln = lift(special.multigammaln)
ndtr = lift(special.ndtr)
ndtri = lift(special.ndtri)
owens_t = lift(special.owens_t)
poch = lift(special.poch)
polygamma = lift(special.polygamma)
rel_entr = lift(special.rel_entr)
sici = lift(special.sici)
softmax = lift(special.softmax)
spence = lift(special.spence)
sph_harm_y = lift(special.sph_harm_y)
wofz = lift(special.wofz)
zeta = lift(special.zeta)

# Not in every version of jax.
if hasattr(special, "erfcinv"):
    erfcinv = lift(special.erfcinv)  # pyright: ignore[reportAttributeAccessIssue]

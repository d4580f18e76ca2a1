"""jax.scipy.stats, lifted: one class a distribution, as a namespace of its functions."""

from __future__ import annotations

from typing import Any

from jax import tree_util
from jax.scipy import stats

from functrace.tracing import lift

mode = lift(stats.mode)
rankdata = lift(stats.rankdata)
sem = lift(stats.sem)


class bernoulli:
    """jax.scipy.stats.bernoulli, lifted."""

    cdf = staticmethod(lift(stats.bernoulli.cdf))
    logpmf = staticmethod(lift(stats.bernoulli.logpmf))
    pmf = staticmethod(lift(stats.bernoulli.pmf))
    ppf = staticmethod(lift(stats.bernoulli.ppf))


class beta:
    """jax.scipy.stats.beta, lifted."""

    cdf = staticmethod(lift(stats.beta.cdf))
    logcdf = staticmethod(lift(stats.beta.logcdf))
    logpdf = staticmethod(lift(stats.beta.logpdf))
    logsf = staticmethod(lift(stats.beta.logsf))
    pdf = staticmethod(lift(stats.beta.pdf))
    sf = staticmethod(lift(stats.beta.sf))


class betabinom:
    """jax.scipy.stats.betabinom, lifted."""

    logpmf = staticmethod(lift(stats.betabinom.logpmf))
    pmf = staticmethod(lift(stats.betabinom.pmf))


class binom:
    """jax.scipy.stats.binom, lifted."""

    logpmf = staticmethod(lift(stats.binom.logpmf))
    pmf = staticmethod(lift(stats.binom.pmf))


class cauchy:
    """jax.scipy.stats.cauchy, lifted."""

    cdf = staticmethod(lift(stats.cauchy.cdf))
    isf = staticmethod(lift(stats.cauchy.isf))
    logcdf = staticmethod(lift(stats.cauchy.logcdf))
    logpdf = staticmethod(lift(stats.cauchy.logpdf))
    logsf = staticmethod(lift(stats.cauchy.logsf))
    pdf = staticmethod(lift(stats.cauchy.pdf))
    ppf = staticmethod(lift(stats.cauchy.ppf))
    sf = staticmethod(lift(stats.cauchy.sf))


class chi2:
    """jax.scipy.stats.chi2, lifted."""

    cdf = staticmethod(lift(stats.chi2.cdf))
    logcdf = staticmethod(lift(stats.chi2.logcdf))
    logpdf = staticmethod(lift(stats.chi2.logpdf))
    logsf = staticmethod(lift(stats.chi2.logsf))
    pdf = staticmethod(lift(stats.chi2.pdf))
    sf = staticmethod(lift(stats.chi2.sf))


class dirichlet:
    """jax.scipy.stats.dirichlet, lifted."""

    logpdf = staticmethod(lift(stats.dirichlet.logpdf))
    pdf = staticmethod(lift(stats.dirichlet.pdf))


class expon:
    """jax.scipy.stats.expon, lifted."""

    cdf = staticmethod(lift(stats.expon.cdf))
    logcdf = staticmethod(lift(stats.expon.logcdf))
    logpdf = staticmethod(lift(stats.expon.logpdf))
    logsf = staticmethod(lift(stats.expon.logsf))
    pdf = staticmethod(lift(stats.expon.pdf))
    ppf = staticmethod(lift(stats.expon.ppf))
    sf = staticmethod(lift(stats.expon.sf))


class gamma:
    """jax.scipy.stats.gamma, lifted."""

    cdf = staticmethod(lift(stats.gamma.cdf))
    logcdf = staticmethod(lift(stats.gamma.logcdf))
    logpdf = staticmethod(lift(stats.gamma.logpdf))
    logsf = staticmethod(lift(stats.gamma.logsf))
    pdf = staticmethod(lift(stats.gamma.pdf))
    sf = staticmethod(lift(stats.gamma.sf))


class gennorm:
    """jax.scipy.stats.gennorm, lifted."""

    cdf = staticmethod(lift(stats.gennorm.cdf))
    logpdf = staticmethod(lift(stats.gennorm.logpdf))
    pdf = staticmethod(lift(stats.gennorm.pdf))


class geom:
    """jax.scipy.stats.geom, lifted."""

    logpmf = staticmethod(lift(stats.geom.logpmf))
    pmf = staticmethod(lift(stats.geom.pmf))


class gumbel_l:
    """jax.scipy.stats.gumbel_l, lifted."""

    cdf = staticmethod(lift(stats.gumbel_l.cdf))
    logcdf = staticmethod(lift(stats.gumbel_l.logcdf))
    logpdf = staticmethod(lift(stats.gumbel_l.logpdf))
    logsf = staticmethod(lift(stats.gumbel_l.logsf))
    pdf = staticmethod(lift(stats.gumbel_l.pdf))
    ppf = staticmethod(lift(stats.gumbel_l.ppf))
    sf = staticmethod(lift(stats.gumbel_l.sf))


class gumbel_r:
    """jax.scipy.stats.gumbel_r, lifted."""

    cdf = staticmethod(lift(stats.gumbel_r.cdf))
    logcdf = staticmethod(lift(stats.gumbel_r.logcdf))
    logpdf = staticmethod(lift(stats.gumbel_r.logpdf))
    logsf = staticmethod(lift(stats.gumbel_r.logsf))
    pdf = staticmethod(lift(stats.gumbel_r.pdf))
    ppf = staticmethod(lift(stats.gumbel_r.ppf))
    sf = staticmethod(lift(stats.gumbel_r.sf))


class laplace:
    """jax.scipy.stats.laplace, lifted."""

    cdf = staticmethod(lift(stats.laplace.cdf))
    logpdf = staticmethod(lift(stats.laplace.logpdf))
    pdf = staticmethod(lift(stats.laplace.pdf))


class logistic:
    """jax.scipy.stats.logistic, lifted."""

    cdf = staticmethod(lift(stats.logistic.cdf))
    isf = staticmethod(lift(stats.logistic.isf))
    logpdf = staticmethod(lift(stats.logistic.logpdf))
    pdf = staticmethod(lift(stats.logistic.pdf))
    ppf = staticmethod(lift(stats.logistic.ppf))
    sf = staticmethod(lift(stats.logistic.sf))


class multinomial:
    """jax.scipy.stats.multinomial, lifted."""

    logpmf = staticmethod(lift(stats.multinomial.logpmf))
    pmf = staticmethod(lift(stats.multinomial.pmf))


class multivariate_normal:
    """jax.scipy.stats.multivariate_normal, lifted."""

    logpdf = staticmethod(lift(stats.multivariate_normal.logpdf))
    pdf = staticmethod(lift(stats.multivariate_normal.pdf))


class nbinom:
    """jax.scipy.stats.nbinom, lifted."""

    logpmf = staticmethod(lift(stats.nbinom.logpmf))
    pmf = staticmethod(lift(stats.nbinom.pmf))


class norm:
    """jax.scipy.stats.norm, lifted."""

    cdf = staticmethod(lift(stats.norm.cdf))
    isf = staticmethod(lift(stats.norm.isf))
    logcdf = staticmethod(lift(stats.norm.logcdf))
    logpdf = staticmethod(lift(stats.norm.logpdf))
    logsf = staticmethod(lift(stats.norm.logsf))
    pdf = staticmethod(lift(stats.norm.pdf))
    ppf = staticmethod(lift(stats.norm.ppf))
    sf = staticmethod(lift(stats.norm.sf))


class pareto:
    """jax.scipy.stats.pareto, lifted."""

    cdf = staticmethod(lift(stats.pareto.cdf))
    logcdf = staticmethod(lift(stats.pareto.logcdf))
    logpdf = staticmethod(lift(stats.pareto.logpdf))
    logsf = staticmethod(lift(stats.pareto.logsf))
    pdf = staticmethod(lift(stats.pareto.pdf))
    ppf = staticmethod(lift(stats.pareto.ppf))
    sf = staticmethod(lift(stats.pareto.sf))


class poisson:
    """jax.scipy.stats.poisson, lifted."""

    cdf = staticmethod(lift(stats.poisson.cdf))
    entropy = staticmethod(lift(stats.poisson.entropy))
    logpmf = staticmethod(lift(stats.poisson.logpmf))
    pmf = staticmethod(lift(stats.poisson.pmf))


class t:
    """jax.scipy.stats.t, lifted."""

    logpdf = staticmethod(lift(stats.t.logpdf))
    pdf = staticmethod(lift(stats.t.pdf))


class truncnorm:
    """jax.scipy.stats.truncnorm, lifted."""

    cdf = staticmethod(lift(stats.truncnorm.cdf))
    logcdf = staticmethod(lift(stats.truncnorm.logcdf))
    logpdf = staticmethod(lift(stats.truncnorm.logpdf))
    logsf = staticmethod(lift(stats.truncnorm.logsf))
    pdf = staticmethod(lift(stats.truncnorm.pdf))
    sf = staticmethod(lift(stats.truncnorm.sf))


class uniform:
    """jax.scipy.stats.uniform, lifted."""

    cdf = staticmethod(lift(stats.uniform.cdf))
    logpdf = staticmethod(lift(stats.uniform.logpdf))
    pdf = staticmethod(lift(stats.uniform.pdf))
    ppf = staticmethod(lift(stats.uniform.ppf))


class vonmises:
    """jax.scipy.stats.vonmises, lifted."""

    logpdf = staticmethod(lift(stats.vonmises.logpdf))
    pdf = staticmethod(lift(stats.vonmises.pdf))


class wrapcauchy:
    """jax.scipy.stats.wrapcauchy, lifted."""

    logpdf = staticmethod(lift(stats.wrapcauchy.logpdf))
    pdf = staticmethod(lift(stats.wrapcauchy.pdf))


@tree_util.register_pytree_node_class
class gaussian_kde(stats.gaussian_kde):
    """Kernel density estimate of the points `dataset`, f[axes, points] or f[points]."""

    def __init__(self, dataset: Any, bw_method: Any = None, weights: Any = None):
        made = lift(stats.gaussian_kde)(dataset, bw_method, weights)
        for name in ("neff", "dataset", "weights", "covariance", "inv_cov"):
            object.__setattr__(self, name, getattr(made, name))

    __call__ = lift(stats.gaussian_kde.evaluate)
    evaluate = lift(stats.gaussian_kde.evaluate)
    integrate_box_1d = lift(stats.gaussian_kde.integrate_box_1d)  # pyright: ignore[reportAssignmentType]
    integrate_gaussian = lift(stats.gaussian_kde.integrate_gaussian)
    integrate_kde = lift(stats.gaussian_kde.integrate_kde)
    logpdf = lift(stats.gaussian_kde.logpdf)
    pdf = lift(stats.gaussian_kde.pdf)
    resample = lift(stats.gaussian_kde.resample)  # pyright: ignore[reportAssignmentType]

"""jax.lax: its functions of arrays, lifted; loops, branches and implicit functions, which are functrace's own."""

from __future__ import annotations

from jax import lax

from functrace.lax import linalg as linalg
from functrace.lax.branches import cond as cond, switch as switch
from functrace.lax.collectives import (
    all_gather as all_gather,
    all_to_all as all_to_all,
    axis_index as axis_index,
    axis_size as axis_size,
    pmax as pmax,
    pmean as pmean,
    pmin as pmin,
    ppermute as ppermute,
    pshuffle as pshuffle,
    psum as psum,
    psum_scatter as psum_scatter,
    pswapaxes as pswapaxes,
)
from functrace.lax.computations import reduce as reduce, reduce_window as reduce_window
from functrace.lax.fixed_point import fixed_point as fixed_point
from functrace.lax.implicit import custom_linear_solve as custom_linear_solve, custom_root as custom_root
from functrace.lax.loops import fori_loop as fori_loop, map as map, scan as scan, while_loop as while_loop
from functrace.lax.prefix import associative_scan as associative_scan
from functrace.tracing import lift
from functrace.tracing.binding import bind as bind
from functrace.transforms.stop_gradient import stop_gradient as stop_gradient

AccuracyMode = lax.AccuracyMode
ConvDimensionNumbers = lax.ConvDimensionNumbers
ConvGeneralDilatedDimensionNumbers = lax.ConvGeneralDilatedDimensionNumbers
DotAlgorithm = lax.DotAlgorithm
DotAlgorithmPreset = lax.DotAlgorithmPreset
DotDimensionNumbers = lax.DotDimensionNumbers
FftType = lax.FftType
GatherDimensionNumbers = lax.GatherDimensionNumbers
GatherScatterMode = lax.GatherScatterMode
Precision = lax.Precision
PrecisionLike = lax.PrecisionLike
RaggedDotDimensionNumbers = lax.RaggedDotDimensionNumbers
RandomAlgorithm = lax.RandomAlgorithm
RoundingMethod = lax.RoundingMethod
ScatterDimensionNumbers = lax.ScatterDimensionNumbers
Tolerance = lax.Tolerance
broadcast_shapes = lax.broadcast_shapes
conv_dimension_numbers = lax.conv_dimension_numbers
conv_general_permutations = lax.conv_general_permutations
conv_general_shape_tuple = lax.conv_general_shape_tuple
conv_shape_tuple = lax.conv_shape_tuple
conv_transpose_shape_tuple = lax.conv_transpose_shape_tuple
dtype = lax.dtype
padtype_to_pads = lax.padtype_to_pads
reduce_window_shape_tuple = lax.reduce_window_shape_tuple
shape_as_value = lax.shape_as_value

abs = lift(lax.abs)
acos = lift(lax.acos)
acosh = lift(lax.acosh)
add = lift(lax.add)
after_all = lift(lax.after_all)
approx_max_k = lift(lax.approx_max_k)
approx_min_k = lift(lax.approx_min_k)
argmax = lift(lax.argmax)
argmin = lift(lax.argmin)
asin = lift(lax.asin)
asinh = lift(lax.asinh)
atan = lift(lax.atan)
atan2 = lift(lax.atan2)
atanh = lift(lax.atanh)
batch_matmul = lift(lax.batch_matmul)
bessel_i0e = lift(lax.bessel_i0e)
bessel_i1e = lift(lax.bessel_i1e)
betainc = lift(lax.betainc)
bitcast_convert_type = lift(lax.bitcast_convert_type)
bitwise_and = lift(lax.bitwise_and)
bitwise_not = lift(lax.bitwise_not)
bitwise_or = lift(lax.bitwise_or)
bitwise_xor = lift(lax.bitwise_xor)
broadcast = lift(lax.broadcast)
broadcast_in_dim = lift(lax.broadcast_in_dim)
broadcast_like = lift(lax.broadcast_like)
broadcast_to_rank = lift(lax.broadcast_to_rank)
broadcasted_iota = lift(lax.broadcasted_iota)
cbrt = lift(lax.cbrt)
ceil = lift(lax.ceil)
clamp = lift(lax.clamp)
clz = lift(lax.clz)
collapse = lift(lax.collapse)
complex = lift(lax.complex)
concatenate = lift(lax.concatenate)
conj = lift(lax.conj)
conv = lift(lax.conv)
conv_general_dilated = lift(lax.conv_general_dilated)
conv_general_dilated_local = lift(lax.conv_general_dilated_local)
conv_general_dilated_patches = lift(lax.conv_general_dilated_patches)
conv_transpose = lift(lax.conv_transpose)
conv_with_general_padding = lift(lax.conv_with_general_padding)
convert_element_type = lift(lax.convert_element_type)
cos = lift(lax.cos)
cosh = lift(lax.cosh)
create_token = lift(lax.create_token)
cumlogsumexp = lift(lax.cumlogsumexp)
cummax = lift(lax.cummax)
cummin = lift(lax.cummin)
cumprod = lift(lax.cumprod)
cumsum = lift(lax.cumsum)
dce_sink = lift(lax.dce_sink)
digamma = lift(lax.digamma)
div = lift(lax.div)
dot = lift(lax.dot)
dot_general = lift(lax.dot_general)
dynamic_index_in_dim = lift(lax.dynamic_index_in_dim)
dynamic_slice = lift(lax.dynamic_slice)
dynamic_slice_in_dim = lift(lax.dynamic_slice_in_dim)
dynamic_update_index_in_dim = lift(lax.dynamic_update_index_in_dim)
dynamic_update_slice = lift(lax.dynamic_update_slice)
dynamic_update_slice_in_dim = lift(lax.dynamic_update_slice_in_dim)
empty = lift(lax.empty)
eq = lift(lax.eq)
erf = lift(lax.erf)
erf_inv = lift(lax.erf_inv)
erfc = lift(lax.erfc)
exp = lift(lax.exp)
exp2 = lift(lax.exp2)
expand_dims = lift(lax.expand_dims)
expm1 = lift(lax.expm1)
fft = lift(lax.fft)
floor = lift(lax.floor)
full = lift(lax.full)
full_like = lift(lax.full_like)
gather = lift(lax.gather)
ge = lift(lax.ge)
gt = lift(lax.gt)
igamma = lift(lax.igamma)
igamma_grad_a = lift(lax.igamma_grad_a)
igammac = lift(lax.igammac)
imag = lift(lax.imag)
index_in_dim = lift(lax.index_in_dim)
index_take = lift(lax.index_take)
integer_pow = lift(lax.integer_pow)
iota = lift(lax.iota)
is_finite = lift(lax.is_finite)
le = lift(lax.le)
lgamma = lift(lax.lgamma)
log = lift(lax.log)
log1p = lift(lax.log1p)
logistic = lift(lax.logistic)
lt = lift(lax.lt)
max = lift(lax.max)
min = lift(lax.min)
mul = lift(lax.mul)
mulhi = lift(lax.mulhi)
ne = lift(lax.ne)
neg = lift(lax.neg)
nextafter = lift(lax.nextafter)
optimization_barrier = lift(lax.optimization_barrier)
pad = lift(lax.pad)
polygamma = lift(lax.polygamma)
population_count = lift(lax.population_count)
pow = lift(lax.pow)
ragged_dot = lift(lax.ragged_dot)
ragged_dot_general = lift(lax.ragged_dot_general)
random_gamma_grad = lift(lax.random_gamma_grad)
real = lift(lax.real)
reciprocal = lift(lax.reciprocal)
reduce_and = lift(lax.reduce_and)
reduce_max = lift(lax.reduce_max)
reduce_min = lift(lax.reduce_min)
reduce_or = lift(lax.reduce_or)
reduce_precision = lift(lax.reduce_precision)
reduce_prod = lift(lax.reduce_prod)
reduce_sum = lift(lax.reduce_sum)
reduce_xor = lift(lax.reduce_xor)
rem = lift(lax.rem)
reshape = lift(lax.reshape)
rev = lift(lax.rev)
rng_bit_generator = lift(lax.rng_bit_generator)
rng_uniform = lift(lax.rng_uniform)
round = lift(lax.round)
rsqrt = lift(lax.rsqrt)
scaled_dot = lift(lax.scaled_dot)
scatter = lift(lax.scatter)
scatter_add = lift(lax.scatter_add)
scatter_apply = lift(lax.scatter_apply)
scatter_max = lift(lax.scatter_max)
scatter_min = lift(lax.scatter_min)
scatter_mul = lift(lax.scatter_mul)
scatter_sub = lift(lax.scatter_sub)
select = lift(lax.select)
select_n = lift(lax.select_n)
shift_left = lift(lax.shift_left)
shift_right_arithmetic = lift(lax.shift_right_arithmetic)
shift_right_logical = lift(lax.shift_right_logical)
sign = lift(lax.sign)
sin = lift(lax.sin)
sinh = lift(lax.sinh)
slice = lift(lax.slice)
slice_in_dim = lift(lax.slice_in_dim)
sort = lift(lax.sort)
sort_key_val = lift(lax.sort_key_val)
split = lift(lax.split)
sqrt = lift(lax.sqrt)
square = lift(lax.square)
squeeze = lift(lax.squeeze)
stack = lift(lax.stack)
stage = lift(lax.stage)
sub = lift(lax.sub)
tan = lift(lax.tan)
tanh = lift(lax.tanh)
tile = lift(lax.tile)
top_k = lift(lax.top_k)
transpose = lift(lax.transpose)
unstack = lift(lax.unstack)
with_sharding_constraint = lift(lax.with_sharding_constraint)
zeta = lift(lax.zeta)

# Not in every version of jax.
if hasattr(lax, "log2"):
    log2 = lift(lax.log2)  # pyright: ignore[reportAttributeAccessIssue]
if hasattr(lax, "one_minus_square"):
    one_minus_square = lift(lax.one_minus_square)  # pyright: ignore[reportAttributeAccessIssue]
if hasattr(lax, "polynomial"):
    polynomial = lift(lax.polynomial)  # pyright: ignore[reportAttributeAccessIssue]

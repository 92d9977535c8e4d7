"""What a drawn program may say: expressions and statements of torch with places for values, as people write them.

Places, filled anew each time; the same name twice in one text is the same value:

    {a} {b} {c}   real tensors          {i} {j}   whole numbers        {m} {n}   truth values
    {s} a plain number                  {k} a small whole number       {R} the real type
    {d} {e}       axes of the first tensor of the text                 {ds} several of them
    {K} True or False                   {z} the length of axis {d}     {q} a place in axis {d}
    {ix}          an index of the first tensor
    {f} {g} {h}   real, whole, truth: tensors of the program's own, which it may write to
    {fv} {gv} {hv}   views of such ones, of views, of views
    {=}           something that can be written to what stands in front of it

A text that begins with "*" makes several tensors, of which two are kept; one that begins with "!" is a statement.
"""


def _texts(block: str) -> tuple[str, ...]:
    return tuple(text.strip() for text in block.split(" ;"))


# a native function can do these, or most of them
KNOWN = _texts("""
    {a} + {b} ;  {a} - {b} ;  {a} * {b} ;  {a} * {b} + {c} ;  {a} / {b} ;  {a} / ({b}.abs() + 0.5) ;  {a} * {s} ;
    {s} - {a} ;  {a} + {s} ;  {s} / ({a}.abs() + 0.25) ;  -{a} ;  {a}.abs() ;  {a}.clamp(-3, 3).exp() ;  {a}.exp() ;
    ({a}.abs() + 0.1).log() ;  {a}.log() ;  {a}.abs().sqrt() ;  {a}.sqrt() ;  {a}.tanh() ;  {a}.sin() ;  {a}.cos() ;
    torch.maximum({a}, {b}) ;  torch.minimum({a}, {b}) ;  {a}.clamp(-0.5, 0.75) ;  {a}.clamp(min={s}) ;
    {a}.clamp(max={s}) ;  {a}.reciprocal() ;  ({a}.abs() + 0.1).rsqrt() ;  {a} ** 2 ;  {a} ** 3 ;  {a} ** -1 ;
    ({a}.abs() + 0.1) ** 1.5 ;  ({a}.abs() + 0.1) ** {b} ;  {a} ** 0.5 ;  {a}.sign() ;  {a}.relu() ;  {a}.sigmoid() ;
    torch.nn.functional.silu({a}) ;  torch.where({m}, {a}, {b}) ;  torch.where({m}, {a}, 0.0) ;
    {a}.masked_fill({m}, {s}) ;  {a}.square() ;  {a} * {m} ;  {a} + {i} ;  {a} * {i} ;  {a} - {m} ;  {a} < {b} ;
    {a} >= {b} ;  {a} > {s} ;  {a} == {b} ;  {a} != {b} ;  {a} <= {i} ;  {a} != {a} ;  {a} < {m} ;  {i} < {j} ;
    {i} == {j} ;  {i} >= {k} ;  {i} != {m} ;  {m} == {n} ;  {m} != {n} ;  {i} > 0.5 ;  {m} > {n} ;  {a}.isnan() ;
    {a}.isinf() ;  {m} & {n} ;  {m} | {n} ;  ~{m} ;  {m}.logical_or({n}) ;  {m}.logical_and({i}) ;  {a}.logical_not() ;
    {i}.logical_not() ;  {a}.logical_and({b}) ;  {m} * {n} ;  {m} + {n} ;  {m} + {i} ;  {i} + {j} ;  {i} - {j} ;
    {i} * {j} ;  -{i} ;  {i}.abs() ;  torch.maximum({i}, {j}) ;  torch.minimum({i}, {j}) ;  {i}.clamp(-2, 3) ;
    {i} & {j} ;  {i} | {j} ;  ~{i} ;  {i}.sign() ;  {i} ** 2 ;  {i} ** 3 ;  {k} - {i} ;  torch.where({m}, {i}, {j}) ;
    torch.where({m}, {a}, {i}) ;  torch.where({m}, {n}, {m}) ;  {i}.masked_fill({m}, 7) ;  torch.where({m}, {i}, 2) ;
    {i} * 1.5 + {a} ;  {m}.masked_fill({n}, True) ;  torch.where({i} > 0, {a}, -{a}) ;  {m}.to({R}) ;  {i}.to({R}) ;
    {a}.clamp(-9, 9).to(torch.int64) ;  {a}.bool() ;  {i}.bool() ;  {m}.long() ;
    torch.where({m}, {a}, 0.0).clamp(-9, 9).long() ;  torch.zeros_like({a}, dtype=torch.int64) ;
    torch.full_like({a}, 2.75, dtype=torch.int64) ;  torch.full_like({i}, -2.75) ;  torch.full_like({m}, 2) ;
    torch.full_like({i}, 2.5, dtype={R}) ;  torch.ones_like({i}, dtype={R}) ;  torch.zeros_like({m}, dtype={R}) ;
    torch.full_like({a}, 0.3, dtype=torch.bool) ;  {a}.new_full((2,), 2.5) ;  {i}.new_full(({z},), 3) ;
    torch.arange({z}, dtype={R}) + {a} ;  torch.arange({z}, dtype=torch.int64) * {i} ;  {i} + torch.arange({z}) ;
    torch.ones_like({a}) * {s} ;  torch.zeros_like({a}) + {b} ;  torch.eye(3, dtype={R}) * {a} ;
    torch.arange(0, 6, 2, dtype={R}) * {a} ;  {a} * torch.tensor({s}, dtype={R}) ;
    {a} * torch.tensor([1.0, -0.5, 2.0], dtype={R}) ;  {i} + torch.tensor([1, -2, 3]) ;  {a}.sum({d}) ;
    {a}.sum({d}, keepdim={K}) ;  {a}.sum({ds}) ;  {a}.sum({ds}, keepdim={K}) ;  {a}.mean({d}) ;
    {a}.mean({ds}, keepdim={K}) ;  {a}.amax({d}) ;  {a}.amin({d}, keepdim={K}) ;  {a}.amax({ds}, keepdim={K}) ;
    ({a} > 0).any({d}) ;  ({a} > 0).all({d}) ;  {m}.any({d}, keepdim={K}) ;  {m}.all({d}) ;  {m}.any({ds}) ;
    {m}.sum({d}) ;  {i}.sum({d}) ;  {i}.sum({ds}, keepdim={K}) ;  {i}.amax({d}) ;  {i}.amin({d}) ;  {i}.any({d}) ;
    {a}.all({d}) ;  {a}.any({ds}) ;  {a}.square().sum({d}).sqrt() ;  ({a} * {b}).sum({d}) ;  {i}.all({d}) ;
    {a}.clamp(-9, 9).sum({d}, dtype=torch.int64) ;  {i}.sum({d}, dtype={R}) ;  {m}.sum({d}, dtype={R}) ;
    {i}.mean({d}, dtype={R}) ;  {m}.mean({d}, dtype={R}) ;  ({a} * 3).clamp(-9, 9).sum({ds}, dtype=torch.int64) ;
    {m}.sum({d}, dtype=torch.int64) ;  {i}.sum({d}, dtype=torch.bool) ;  {a}.sum({d}, dtype=torch.bool) ;
    {a}.mean({d}, dtype={R}) ;  torch.where({m}, {a}, 0.0).sum({d}) ;  {a}.masked_fill({m}, -5.0).amax({d}) ;
    {a}.transpose({d}, {e}) ;  {i}.transpose({d}, {e}) ;  {a}.select({d}, {q}) ;  {a}{ix} ;  {a}{ix} ;  {i}{ix} ;
    {m}{ix} ;  {a}.unsqueeze({d}) ;  {a}.unsqueeze(-1) ;  {a}.squeeze({d}) ;  {a}.squeeze(-1) ;  {i}.squeeze(-1) ;
    *{a}.unbind({d}) ;  *{a}.split(1, {d}) ;  *{a}.split([1, {z} - 1], {d}) ;  *{a}.chunk(2, {d}) ;  {a}.mT ;
    torch.cat([{a}, {b}], {d}) ;  torch.cat([{a}, {a}, {b}], {d}) ;  torch.stack([{a}, {b}], {d}) ;
    torch.stack([{i}, {j}], -1) ;  torch.cat([{i}, {j}], -1) ;  torch.cat([{m}, {n}], -1) ;  {a}.expand_as({b}) ;
    {a}.unsqueeze(-1).expand(*{a}.shape, 3) ;  {a}.narrow({d}, 0, {z} - 1) ;  {a}.movedim({d}, {e}) ;
    {a}.unsqueeze({d}) - {a}.unsqueeze({e}) ;  {a}[..., None] * {b} ;  {a}.contiguous() ;  {a}.clone() ;
    {m}.unsqueeze(-1) ;  {m}.transpose({d}, {e}) ;  {a}.reshape({a}.shape[0], -1) ;  {a}.flatten(1) ;
    {a}.unflatten(-1, (1, -1)) ;  {a}.view(*{a}.shape, 1) ;  {a}.flatten(-2) ;  {i}.flatten(-2) ;  {a}.permute({pm}) ;
    {a} @ {b} ;  {a} @ {b} ;  {a} @ {b} + {c} ;  ({a} @ {b}).tanh() @ {c} ;  {a} @ {a}.mT ;  {a}.mT @ {b} ;
    ({a} @ {b}).relu() ;  {i} @ {j} ;  torch.nn.functional.linear({a}, {b}) ;  {a}.unsqueeze(-2) @ {b}.unsqueeze(-1) ;
    {i}.unsqueeze(-1) @ {j}.unsqueeze(-2) ;  {a}[..., :, None] * {a}[..., None, :] ;  torch.bmm({a}, {b})
""")

# over all systems: for functions of a batch
ACROSS = _texts("""
    {a}.sum(0) ;  {a}.mean(0) ;  {a} - {a}.mean(0) ;  {a} / ({a}.abs().sum() + 1) ;  {a}.amax() ;  {a}.amin(0) ;
    {m}.any() ;  {m}.all(0) ;  {m}.sum() ;  {i}.sum(0) ;  {i}.amax(0) ;  {a}.sum() ;  {a}.mean() ;  {a}.flip(0) ;
    {a} * (torch.where({m}, {b}, 0.0).sum() + 1) ;  {a}.t() @ {b} ;  {a}[1:] ;  {a}[0] ;  {a}.t() ;  {a}.cumsum(0) ;
    {a}.sum(0, keepdim={K}) ;  {i}.sum(dtype={R}) ;  {a}.clamp(-9, 9).sum(dtype=torch.int64) ;  {a}.reshape(-1) ;
    {a}.clamp(-9, 9).sum(0, dtype=torch.int64) ;  {m}.sum(0, dtype={R}) ;  {m}.mean(0, dtype={R})
""")

# most of these are for TorchInductor
RARE = _texts("""
    {a}.flip({d}) ;  {a}.roll(1, {d}) ;  {a}.roll(-2, {d}) ;  {a}.diagonal(dim1={d}, dim2={e}) ;  {a}.prod({d}) ;
    {a}.cumsum({d}) ;  {i}.cumsum({d}) ;  {a}.std({d}) ;  {a}.var({d}, correction=0) ;  {a}.norm(dim={d}) ;
    {a}.norm(dim={ds}) ;  {a}.softmax({d}) ;  {a}.log_softmax({d}) ;  {a}.logsumexp({d}) ;  *{a}.sort({d}) ;
    {a}.argmax({d}) ;  {a}.argmin({d}) ;  *{a}.topk(1, {d}) ;  *torch.aminmax({a}, dim={d}) ;  {a}.cumprod({d}) ;
    {m}.count_nonzero({d}) ;  {a}.diff(dim={d}) ;  *{a}.max({d}) ;  *{a}.min({d}) ;  *{i}.max({d}) ;  {i}.prod({d}) ;
    torch.erf({a}) ;  {a}.erfc() ;  {a}.expm1() ;  {a}.log1p() ;  {a}.log2() ;  {a}.log10() ;  {a}.exp2() ;  {a}.tan() ;
    {a}.asin() ;  {a}.acos() ;  {a}.atan() ;  torch.atan2({a}, {b}) ;  {a}.clamp(-5, 5).sinh() ;
    {a}.clamp(-5, 5).cosh() ;  {a}.floor() ;  {a}.ceil() ;  {a}.round() ;  {a}.trunc() ;  {a}.frac() ;  {a}.fmod(0.7) ;
    {a} % 0.75 ;  {a} // 0.75 ;  torch.hypot({a}, {b}) ;  torch.copysign({a}, {b}) ;  torch.lerp({a}, {b}, 0.3) ;
    torch.addcmul({a}, {b}, {c}, value=0.5) ;  torch.addcdiv({a}, {b}, {c}.abs() + 1) ;
    torch.xlogy({a}, {b}.abs() + 0.1) ;  {a}.nan_to_num() ;  torch.heaviside({a}, {b}) ;  torch.logaddexp({a}, {b}) ;
    torch.add({a}, {b}, alpha=2.5) ;  torch.sub({a}, {b}, alpha=-0.5) ;  torch.add({i}, {j}, alpha=3) ;
    torch.nn.functional.gelu({a}) ;  torch.nn.functional.elu({a}) ;  torch.nn.functional.softplus({a}) ;
    torch.nn.functional.leaky_relu({a}) ;  torch.nn.functional.hardtanh({a}) ;  torch.nn.functional.logsigmoid({a}) ;
    {a}.signbit() ;  {a}.isfinite() ;  torch.isclose({a}, {b}) ;  {a}.isposinf() ;  torch.fmax({a}, {b}) ;
    torch.fmin({a}, {b}) ;  torch.clamp({a}, {b}, {c}) ;  {a}.asinh() ;  {a}.clamp(-0.9, 0.9).atanh() ;  {i} // 3 ;
    {i} % 3 ;  {i} // -2 ;  {i} % -5 ;  {i} // ({j}.abs().clamp(max=5) + 1) ;  {i}.fmod(3) ;  {i} << 2 ;  {i} >> 1 ;
    {i} ^ {j} ;  {m} ^ {n} ;  {i} / 3 ;  {i} / ({j}.abs() + 1) ;  torch.div({i}, 2, rounding_mode='trunc') ;
    torch.div({a}, {s}, rounding_mode='floor') ;  {i} % ({j}.abs().clamp(max=5) + 1) ;  torch.gcd({i}, {j}) ;  {i} & 3 ;
    {i} | 4 ;  {m} & {i} ;  {i}.to(torch.int32) + 1 ;  {a}.float() * 1.5 ;  {a}.double() * 1.5 ;  {a}.float().to({R}) ;
    {a}.sum({d}, dtype=torch.float32) ;  {a}.sum({d}, dtype=torch.float64) ;  {i}.float() ;
    {i}.sum({d}, dtype=torch.float32) ;  {a}.cumsum({d}, dtype=torch.float64) ;  {m}.to(torch.uint8) + 250 ;
    {a}.clamp(0, 9).to(torch.uint8) ;  {i}.sum({d}, dtype=torch.int32) ;  {i}.prod({d}, dtype={R}) ;  {i}.sqrt() ;
    torch.einsum('...i,...i->...', {a}, {b}) ;  torch.einsum('...i,...j->...ij', {a}, {b}) ;  torch.outer({a}, {b}) ;
    torch.einsum('...ij,...j->...i', {a}, {b}) ;  torch.dot({a}, {b}) ;  torch.linalg.cross({a}, {b}) ;  {a}.triu() ;
    {a}.tril(-1) ;  torch.diag_embed({a}) ;  {a}.gather({d}, {a}.argsort({d})) ;
    {a}.index_select({d}, torch.tensor([0, 0])) ;  {a}[..., [0, -1]] ;  {a}.repeat_interleave(2, {d}) ;
    {a}.tile((2,)) ;  {a}.swapaxes({d}, {e}) ;  {a}.unfold({d}, 2, 1) ;  torch.nn.functional.pad({a}, (1, 0)) ;
    {a}.trace() ;  torch.take_along_dim({a}, {a}.argmax({d}, keepdim=True), {d}) ;  torch.baddbmm({a}, {b}, {c}) ;
    torch.addmm({a}, {b}, {c}) ;  {a}.select_scatter({b}, {d}, {q}) ;  {a}.diagonal() ;
    {a}.slice_scatter({b}, {d}, 0, 1) ;  {a}.index_add({d}, torch.tensor([0]), {b}) ;  {a}.masked_select({m}).sum() ;
    {a}.scatter({d}, {a}.argsort({d}), {b}) ;  {a}.index_fill({d}, torch.tensor([0]), 2.0) ;  {a}.median({d})[0] ;
    torch.special.expit({a}) ;  torch.sinc({a}) ;  {a}.lgamma() ;  torch.cdist({a}, {b}) ;  {a}.std() ;
    {a}.cummax({d})[0] ;  {a}.argsort({d}) ;  {a}.nansum({d}) ;  torch.trapezoid({a}, dim={d}) ;
    torch.bitwise_left_shift({i} & 7, {j} & 3) ;  {a}.logical_xor({b}) ;  torch.float_power({a}, 2) ;  {a}.rad2deg() ;
    torch.block_diag({a}, {b}) ;  torch.kron({a}, {b})
""")

# something that may be written to
OWN = _texts("""
    torch.zeros_like({a}) ;  torch.zeros_like({a}) ;  {a}.clone() ;  {a} * 2 ;  torch.ones_like({a}) ;  {i}.clone() ;
    torch.zeros_like({i}) ;  {m}.clone() ;  torch.empty_like({a}).zero_() ;  {a} + {b} ;  torch.zeros_like({m}) ;
    {a}.new_zeros({a}.shape) ;  torch.full_like({a}, {s}) ;  {a}.mT.clone() ;  {a}.transpose({d}, {e}).contiguous() ;
    torch.stack([{a}, {b}], {d}) ;  torch.zeros_like({a}, dtype=torch.int64) ;  torch.empty_like({a}).copy_({b})
""")

# and what is read of it after that
WRITES = _texts("""
    !{fv}.copy_({=}) ;  !{fv}.copy_({=}) ;  !{fv}.fill_({s}) ;  !{fv}.zero_() ;  !{fv}.add_({=}) ;  !{fv}.mul_({=}) ;
    !{fv}.sub_({=}) ;  !{fv}.div_(2.5) ;  !{fv}.clamp_(-0.5, 0.5) ;  !{fv}.neg_() ;  !{fv}.abs_() ;  !{fv}.tanh_() ;
    !{fv}.add_({=}, alpha=0.5) ;  !{fv}.add_({s}) ;  !{fv}.mul_({s}) ;  !{fv}.sigmoid_() ;  !{fv}.relu_() ;
    !{f}{ix} = {=} ;  !{f}{ix} = {=} ;  !{f}{ix} = {=} ;  !{f}{ix} += {=} ;  !{f}{ix} *= {=} ;  !{f}{ix} -= {s} ;
    !{f}{ix} = {f}{ix} * 2 ;  !{f}{ix} /= 1.5 ;  !{f} += {=} ;  !{f} *= {=} ;  !{f} -= {=} ;  !{f}[...] = {=} ;
    !{f}.masked_fill_({m}, {s}) ;  !{f}[{m}] = {s} ;  !{f}[{f} > 0.5] = 0.0 ;  !{fv}.masked_fill_({m}, {s}) ;
    !{g}{ix} = {=} ;  !{g}{ix} += {=} ;  !{gv}.add_({=}) ;  !{gv}.mul_({k}) ;  !{gv}.fill_({k}) ;
    !{gv}.copy_({a}.clamp(-9, 9)) ;  !{h}{ix} = {=} ;  !{hv}.logical_not_() ;  !{h} &= {=} ;  !{h} |= {=} ;
    !{hv}.fill_(True) ;  !{fv}.copy_({i}) ;  {f}.add_({=}) ;  {f}.mul_({s}) ;  {f}.square_() ;  {fv}.copy_({=}) ;
    !{f}.addcmul_({=}, {s} * {f}) ;  !{f}.lerp_({=}, 0.25) ;  !torch._foreach_add_([{f}], [{=}]) ;
    !torch._foreach_mul_([{f}, {f}], 0.5) ;  !torch._foreach_zero_([{fv}]) ;  !torch.add({a}, {b}, out={f}) ;
    !torch.mul({a}, {s}, out={f}) ;  !torch.sin({a}, out={f}) ;  !torch.exp({f}, out={f}) ;
    !{f}.scatter_({d}, torch.zeros_like({f}, dtype=torch.int64), {=}) ;
    !{f}.scatter_add_({d}, torch.zeros_like({f}, dtype=torch.int64), {=}) ;
    !{f}.index_add_({d}, torch.tensor([0]), {f}.narrow({d}, 0, 1) * 2) ;
    !{f}.index_copy_({d}, torch.tensor([0]), {f}.narrow({d}, 1, 1) * 2) ;
    !{f}.index_fill_({d}, torch.tensor([0]), {s}) ;  !{f}[..., torch.tensor([0, 1])] = {s} ;
    !{f}[..., [0, -1]] += 1.0 ;  !{f}.index_put_((torch.tensor([0]),), {f}[:1] * 2) ;
    !{f}[..., torch.tensor([1, 0])] = {f}[..., :2].clone() ;  !{f}.transpose_({d}, {e}) ;  !{f}.unsqueeze_(-1) ;
    !{f}.squeeze_(-1) ;  !{f}.t_() ;  !{fv}.exp_() ;  !{f}.cumsum_({d}) ;  !torch.where({m}, {a}, {b}, out={f}) ;
    !{f}.fill_diagonal_({s}) ;  !{f}.diagonal().copy_({=}) ;  !{fv}.pow_(2) ;  !{f}.set_({f}.clone()) ;
    !torch.sort({f}.clone(), {d}, out=({f}, {g})) ;  !{g}.bitwise_and_({=}) ;  !{f}.triu_() ;  !{f}.floor_() ;
    !{f}.masked_scatter_({m}, {=}) ;  !{f}.addmm_({a}.clone(), {b}.clone()) ;  !{f}.swapaxes_({d}, {e}) ;
    !torch.sum({a}.clone(), {d}, out={f}) ;  {f}{ix} ;  {f}{ix} ;  {fv} ;  {fv} ;  {gv} ;  {f}.t() ;  {f}.view(-1) ;
    {f}.unbind({d})[0] ;  {f} + 1.0
""")

"""A plan as a page of text."""

import math

import jax

from vilbert_jax.planning.plan import Plan, num_evaluations
from vilbert_jax.planning.remedies import Remedy

_PREFIXES = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def describe(plan: Plan) -> str:
    """The whole plan: what it costs, whether it fits, what would make it fit, what is not known."""
    sections = (_work(plan), _data(plan), _memory(plan), _sent(plan), _rates(plan), _time(plan), _kept(plan))
    return "\n".join(line for section in (*sections, _unknown(plan)) for line in section)


def _work(plan: Plan) -> list[str]:
    job, training, sample = plan.job, plan.job.training, plan.data.sample
    examples = training.total_steps * training.batch_size
    epochs = f"{examples / plan.data.num_examples:.1f} epochs of {plan.data.num_examples:,}"
    number = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(plan.compiled.program.abstract.params))
    pairs = f"{sample.num_pairs:g} pairs of " if sample.num_pairs != 1 else ""
    words = f"{sample.text_length:.1f} of {sample.num_slots} word pieces"
    regions = f"{sample.num_regions:.1f} of {sample.num_region_slots} regions"
    lines = [
        _line("run", f"{training.total_steps:,} steps of {training.batch_size:,} examples; nothing is trained now"),
        _line("", f"{_count(examples)} examples, {epochs}"),
        _line("model", f"{_count(number)} parameters; heads: {', '.join(job.heads)}; computes in {job.model.dtype}"),
        _line("an example", f"{pairs}{words}, {regions} (mean of {sample.num_examples:,} examples)"),
    ]
    if sample.predicted_tokens is not None:
        predicted = f"{sample.predicted_tokens:.1f} words, {sample.predicted_regions:.1f} regions"
        lines.append(_line("", f"to predict: {predicted}"))
    real, computed = 3 * sample.flops, plan.compiled.flops / training.batch_size
    work = f"{_si(real)}FLOP to train on what is real, {_si(computed)}FLOP computed: {real / computed:.0%} is real"
    tokens, seen = (examples * sample.num_pairs * length for length in (sample.text_length, sample.num_regions))
    return [*lines, _line("", work), _line("", f"in all {_count(tokens)} word pieces, {_count(seen)} regions")]


def _data(plan: Plan) -> list[str]:
    storage = plan.data.storage
    pictures = f"{_bytes(storage.regions)} for {storage.num_pictures:,} pictures"
    lines = [_line("data", f"regions {pictures}, annotations {_bytes(storage.annotations)}")]
    if plan.step.total:
        rate = plan.job.training.batch_size / plan.step.total
        read = f"{rate:,.1f} examples/s, {_bytes(rate * storage.bytes_per_example)}/s at random places"
        lines.append(_line("", f"to read, by all hosts together: {read}"))
    return lines


def _memory(plan: Plan) -> list[str]:
    need, shape = plan.compiled.need, plan.compiled.program.device_mesh.shape
    mesh = " x ".join(f"{axis}={size}" for axis, size in shape.items())
    kept = f"arguments {_bytes(need.arguments)} ({_bytes(need.aliased)} reused for outputs)"
    made = f"temporaries {_bytes(need.temporaries)}, new outputs {_bytes(need.outputs - need.aliased)}"
    has = f"has {_bytes(plan.rates.memory)}" if plan.rates.memory else "is not told what it has (--rates=memory=BYTES)"
    verdict = {True: "it fits", False: "IT DOES NOT FIT", None: "whether it fits is not known"}[plan.fits]
    rest = {"the process and its compiler": plan.baseline, "a checkpoint being written": plan.saving}
    parts = [
        f"{_bytes(need.peak)} for the step",
        *(f"{_bytes(size)} for {what}" for what, size in rest.items() if size),
    ]
    return [
        _line("devices", f"{plan.compiled.num_devices} ({mesh}), compiled in {plan.compile_seconds:.0f} s"),
        _line("memory", f"{kept}, {made}"),
        _line("", f"peak of a device: {_bytes(plan.need)}; it {has}: {verdict}"),
        *([_line("", f"= {' + '.join(parts)}")] if len(parts) > 1 else []),
        *(_remedy(one, plan.need - need.peak) for one in plan.remedies),
        *_advice(plan),
    ]


def _remedy(remedy: Remedy, baseline: int) -> str:
    if remedy.peak is None:
        return _line("", f"  {remedy.typed}: is refused")
    verdict = f"fits; {remedy.price}" if remedy.fits else "does not fit"
    return _line("", f"  {remedy.typed}: {_bytes(remedy.peak + baseline)}, {verdict}")


def _advice(plan: Plan) -> list[str]:
    if not plan.remedies:
        return []
    last = plan.remedies[-1]
    if last.fits:
        return [_line("", f"it fits with {last.typed}")]
    return [_line("", "none of these is enough: more devices, or a smaller model")]


def _sent(plan: Plan) -> list[str]:
    if plan.compiled.num_devices == 1:
        return [_line("sent a step", "nothing: one device")]
    lines = [
        f"  {one.kind} along {' x '.join(one.axes)}: {one.number} of {_bytes(one.payload)} in all, "
        f"{_bytes(one.sent)} sent"
        for one in plan.compiled.traffic
    ]
    total = _bytes(sum(one.sent for one in plan.compiled.traffic))
    return [_line("sent a step", f"{total} by each device"), *(_line("", line) for line in lines)]


def _rates(plan: Plan) -> list[str]:
    measured, lines = plan.measured, []
    if measured is not None:
        product, memory = f"{_si(measured.product.rate)}FLOP/s", f"{_bytes(measured.memory.rate)}/s"
        lines.append(f"{plan.here.device_kind}: {product} in one large product, {memory} of memory")
        lines.append(
            f"a step on {measured.step_rows} of {plan.job.num_rows} rows takes {_seconds(measured.step.seconds)}"
            if measured.step
            else "no step was measured, since its state does not fit: the large product's speed is taken"
        )
    if told := [f"{name} {_si(value)}" for name, value in vars(plan.stated).items() if value is not None]:
        lines.append(f"stated: {', '.join(told)}")
    if plan.rates.flops:
        lines.append(f"so the model reaches {_si(plan.rates.flops)}FLOP/s")
    return [_line("" if number else "rates", line) for number, line in enumerate(lines)]


def _time(plan: Plan) -> list[str]:
    step = plan.step
    spent = ", ".join(f"{name} {_seconds(value)}" for name, value in step._asdict().items() if value is not None)
    if step.total is None:
        return [_line("a step", f"{spent}; the rest needs a rate: --rates=link_rate=BYTES_A_SECOND")]
    trained = step.total * plan.job.training.total_steps / 3600
    evaluated = plan.evaluation_seconds / 3600
    hours = trained + evaluated
    parts = f"{_hours(trained)} of steps, {_hours(evaluated)} of {num_evaluations(plan.job.training)} evaluations"
    return [
        _line("a step", f"{_seconds(step.total)}: {spent}, one after the other"),
        _line("to the end", f"{_hours(hours)} ({parts}); {_hours(hours * plan.compiled.num_devices)} of devices"),
    ]


def _kept(plan: Plan) -> list[str]:
    training, size = plan.job.training, plan.compiled.checkpoint_bytes
    number = min(training.keep_checkpoints, math.ceil(training.total_steps / training.checkpoint_every))
    best = plan.job.given.get("selection") is not None
    disk = size * (number + 1) + (best and plan.compiled.checkpoint_bytes / 3)
    kept = f"{number} kept and one being written{', and the best parameters' if best else ''}"
    lines = [_line("checkpoints", f"{_bytes(size)} each; {kept}: {_bytes(disk)} of disk")]
    if plan.step.total:
        every = plan.step.total * min(training.checkpoint_every, training.total_steps)
        lines.append(
            _line("", f"one every {_hours(every / 3600)}: a disk that writes {_bytes(size / every)}/s keeps up")
        )
    return lines


def _unknown(plan: Plan) -> list[str]:
    missing = [
        "how fast disks read and write; whether communication hides behind computation; what else runs here",
        f"whether every batch is of the size of the first; compiling again takes {plan.compile_seconds:.0f} s a size",
    ]
    if plan.pretended:
        missing.append(
            "the devices themselves: compiled for parts of this processor that stand for them, whose compiler"
        )
        missing.append("chooses temporaries and collectives a little differently; what was measured is this processor")
    return [_line("" if number else "not known", line) for number, line in enumerate(missing)]


def _line(title: str, text: str) -> str:
    return f"{title:12} {text}"


def _si(value: float) -> str:
    """``12.3 G``, to be followed by a unit; ``12 `` below a thousand."""
    for prefix, scale in _PREFIXES:
        if value >= scale:
            return f"{value / scale:,.1f} {prefix}"
    return f"{value:,.0f} "


def _count(value: float) -> str:
    if value >= 1e9:
        return f"{value / 1e9:,.2f} billion"
    return f"{value / 1e6:,.1f} million" if value >= 1e6 else f"{value:,.0f}"


def _bytes(value: float) -> str:
    return f"{_si(value)}B"


def _seconds(value: float) -> str:
    return f"{value:,.2f} s" if value >= 0.1 else f"{value * 1e3:,.2f} ms"


def _hours(value: float) -> str:
    return f"{value:,.1f} hours" if value >= 1 else f"{value * 60:,.1f} minutes"

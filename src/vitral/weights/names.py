"""Matching the tensors of a file with the parameters of a model, in both directions, each exactly once.

The rules are data (`families/common/rules.py`); this is their one interpreter. What a file has and the model has not,
or the other way round, is an error that names the tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitral.errors import CheckpointError
from vitral.families.common.rules import Leading, Names, Rule, Split, Stacked, Transposed


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of a file and the parameters it holds: several where the file fused them, one after the other.

    `index` is its place along the first axis of the one parameter that stacks many tensors of the file; `ones` is how
    many axes of length one the file puts before those of the parameter.
    """

    file: str
    parameters: tuple[str, ...]
    transposed: bool = False
    index: int | None = None
    ones: int = 0

    def unpack(self, tensor: Tensor) -> list[Tensor]:
        """File → parameters."""
        if self.ones:
            return [tensor.reshape(tensor.shape[self.ones :])]
        if self.transposed:
            tensor = tensor.mT.contiguous()
        return [tensor] if len(self.parameters) == 1 else list(tensor.chunk(len(self.parameters)))

    def pack(self, tensors: Sequence[Tensor]) -> Tensor:
        """Parameters → file; undoes `unpack`."""
        if self.index is not None:
            return tensors[0][self.index]
        if self.ones:
            return tensors[0].reshape((1,) * self.ones + tensors[0].shape)
        tensor = tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
        return tensor.mT.contiguous() if self.transposed else tensor

    def shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """The shape the file's tensor must have for parameters of these shapes."""
        if self.index is not None:
            return shapes[0][1:]
        if self.ones:
            return (1,) * self.ones + shapes[0]
        shape = shapes[0] if len(shapes) == 1 else (sum(s[0] for s in shapes), *shapes[0][1:])
        return (*shape[:-2], *shape[:-3:-1]) if self.transposed else shape


@dataclass(frozen=True, kw_only=True)
class Match:
    """How a file fills a model. `repeats` are tensors that must equal another of the file and are not needed."""

    entries: tuple[Entry, ...]
    repeats: tuple[tuple[str, str], ...]


def match(
    names: Names,
    file_names: Iterable[str],
    parameters: Iterable[str],
    *,
    depths: Mapping[str, int] | None = None,
    folder: str = "the file",
) -> Match:
    """Pair every tensor of a file with the parameters it holds.

    Args:
        depths: how many tensors of the file each stacked parameter holds.

    Raises:
        CheckpointError: a tensor that no parameter wants, a parameter that no tensor fills, or one filled twice.
    """
    wanted = set(parameters)
    here = list(file_names)
    short = {name: _short(names, here, name) for name in here}  # by today's name, without the prefix
    entries, repeats, extra = [], [], []
    filled: dict[tuple[str, int | None], str] = {}
    for name in here:
        entry = _entry(names.rules, name, short[name])
        if entry is not None and set(entry.parameters) <= wanted and _fits(entry, depths):
            for parameter in entry.parameters:
                place = parameter, entry.index
                if place in filled:
                    raise CheckpointError(f"{folder}: {name!r} and {filled[place]!r} are the same tensor twice")
                filled[place] = name
            entries.append(entry)
        elif original := _lookup(names.tied, short[name]):
            repeats.append((name, original))
        elif not any(_pattern(p).fullmatch(short[name]) for p in names.ignore):
            extra.append(name)
    by_short = {value: key for key, value in short.items()}
    extra += [name for name, original in repeats if original not in by_short]
    missing = [entry for entry in export(names, sorted(wanted), depths=depths, partial=True) if not _met(entry, filled)]
    nameless = wanted - {parameter for parameter, _ in filled} - {p for entry in missing for p in entry.parameters}
    if missing or nameless or extra:
        lacks = [entry.file for entry in missing] + sorted(nameless)
        said = [f"lacks {_list(lacks)}"] if lacks else []
        said += [f"holds {_list(sorted(extra))}, which the model has not"] if extra else []
        raise CheckpointError(
            f"{folder} {' and '.join(said)}", "The config and the tensors must describe the same model"
        )
    return Match(entries=tuple(entries), repeats=tuple((a, by_short[b]) for a, b in repeats))


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """What a file of this model holds, each under one name: parameters, and buffers that are part of its state."""
    state = model.state_dict(keep_vars=True)
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in state}
    return {**dict(model.named_parameters()), **buffers}


def depths(parameters: Mapping[str, Tensor]) -> dict[str, int]:
    """The length of each parameter's first axis."""
    return {name: parameter.shape[0] if parameter.ndim else 0 for name, parameter in parameters.items()}


def _fits(entry: Entry, depths: Mapping[str, int] | None) -> bool:
    """Whether a stacked parameter has a place of that number."""
    return entry.index is None or 0 <= entry.index < (depths or {}).get(entry.parameters[0], 0)


def _met(entry: Entry, filled: Mapping[tuple[str, int | None], str]) -> bool:
    return all((parameter, entry.index) in filled for parameter in entry.parameters)


def export(
    names: Names, parameters: Iterable[str], *, depths: Mapping[str, int] | None = None, partial: bool = False
) -> list[Entry]:
    """The tensors, by their published names, that hold these parameters.

    Args:
        depths: how many tensors of the file each stacked parameter holds.
        partial: the parameters are only some of a model's; a fused tensor is named by any of its parts.
    """
    left = dict.fromkeys(parameters)
    entries = []
    while left:
        parameter = next(iter(left))
        entry = _inverse(names, parameter)
        if entry is None or not (partial or set(entry.parameters) <= set(left)):
            if partial:
                del left[parameter]
                continue
            raise CheckpointError(f"no published name is known for parameter {parameter!r}")
        if entry.index is None:
            entries.append(entry)
        else:
            entries += _each(names, parameter, (depths or {})[parameter])
        for each in entry.parameters:
            left.pop(each, None)
    return entries


def _each(names: Names, parameter: str, depth: int) -> Iterator[Entry]:
    """The tensors of the file that a stacked parameter holds."""
    for index in range(depth):
        entry = _inverse(names, parameter, index)
        assert entry is not None
        yield entry


def _short(names: Names, here: Sequence[str], name: str) -> str:
    for old, new in names.old:
        if name.endswith(old):
            name = name[: -len(old)] + new
    prefix = names.prefix
    return name[len(prefix) :] if prefix and name.startswith(prefix) else name


def _entry(rules: Mapping[str, Rule], file: str, short: str) -> Entry | None:
    for pattern, rule in rules.items():
        found = _pattern(pattern).fullmatch(short)
        if found and isinstance(rule, Stacked):
            *parts, last = found.groups()
            if not re.fullmatch("0|[1-9][0-9]{0,5}", last):
                return None
            return Entry(file=file, parameters=(_fill(rule.into, parts),), index=int(last))
        if found:
            targets, transposed = _targets(rule)
            parameters = tuple(_fill(target, found.groups()) for target in targets)
            return Entry(file=file, parameters=parameters, transposed=transposed, ones=_ones(rule))
    return None


def _inverse(names: Names, parameter: str, index: int = 0) -> Entry | None:
    for pattern, rule in names.rules.items():
        targets, transposed = _targets(rule)
        for target in targets:
            found = _pattern(target).fullmatch(parameter)
            if found:
                stacked = isinstance(rule, Stacked)
                short = _fill(pattern, (*found.groups(), str(index)) if stacked else found.groups())
                bare = any(_pattern(p).fullmatch(short) for p in names.bare)
                file = short if bare else names.prefix + short
                parameters = tuple(_fill(each, found.groups()) for each in targets)
                place = index if stacked else None
                return Entry(file=file, parameters=parameters, transposed=transposed, index=place, ones=_ones(rule))
    return None


def _targets(rule: Rule) -> tuple[tuple[str, ...], bool]:
    transposed = isinstance(rule, Transposed)
    if isinstance(rule, Transposed):
        rule = rule.to
    if isinstance(rule, Stacked):
        return (rule.into,), False
    if isinstance(rule, Leading):
        return (rule.to,), False
    return (rule.into if isinstance(rule, Split) else (rule,)), transposed


def _ones(rule: Rule) -> int:
    return rule.ones if isinstance(rule, Leading) else 0


def _lookup(table: Mapping[str, str], short: str) -> str | None:
    for pattern, original in table.items():
        found = _pattern(pattern).fullmatch(short)
        if found:
            return _fill(original, found.groups())
    return None


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text).replace(r"\{\}", r"([^.]+)"))


def _fill(text: str, parts: Sequence[str]) -> str:
    return text.format(*parts)


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:4])
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")

"""Matching the tensors of a file with the parameters of a model, in both directions, each exactly once.

The rules are data (`families/common/rules.py`); this is their one interpreter. What a file has and the model has not,
or the other way round, is an error that names the tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitral.errors import CheckpointError
from vitral.families.common.rules import Names, Rule, Split, Transposed


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of a file and the parameters it holds: several where the file fused them, one after the other."""

    file: str
    parameters: tuple[str, ...]
    transposed: bool = False

    def unpack(self, tensor: Tensor) -> list[Tensor]:
        """File → parameters."""
        if self.transposed:
            tensor = tensor.t().contiguous()
        return [tensor] if len(self.parameters) == 1 else list(tensor.chunk(len(self.parameters)))

    def pack(self, tensors: Sequence[Tensor]) -> Tensor:
        """Parameters → file; undoes `unpack`."""
        tensor = tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
        return tensor.t().contiguous() if self.transposed else tensor

    def shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """The shape the file's tensor must have for parameters of these shapes."""
        shape = (sum(s[0] for s in shapes), *shapes[0][1:])
        return shape[::-1] if self.transposed else shape


@dataclass(frozen=True, kw_only=True)
class Match:
    """How a file fills a model. `repeats` are tensors that must equal another of the file and are not needed."""

    entries: tuple[Entry, ...]
    repeats: tuple[tuple[str, str], ...]


def match(names: Names, file_names: Iterable[str], parameters: Iterable[str], *, folder: str = "the file") -> Match:
    """Pair every tensor of a file with the parameters it holds.

    Raises:
        CheckpointError: a tensor that no parameter wants, a parameter that no tensor fills, or one filled twice.
    """
    wanted = set(parameters)
    here = list(file_names)
    short = {name: _short(names, here, name) for name in here}  # by today's name, without the prefix
    entries, repeats, extra = [], [], []
    filled: dict[str, str] = {}
    for name in here:
        entry = _entry(names.rules, name, short[name])
        if entry is not None and set(entry.parameters) <= wanted:
            for parameter in entry.parameters:
                if parameter in filled:
                    raise CheckpointError(f"{folder}: {name!r} and {filled[parameter]!r} are the same tensor twice")
                filled[parameter] = name
            entries.append(entry)
        elif original := _lookup(names.tied, short[name]):
            repeats.append((name, original))
        elif not any(_pattern(p).fullmatch(short[name]) for p in names.ignore):
            extra.append(name)
    by_short = {value: key for key, value in short.items()}
    extra += [name for name, original in repeats if original not in by_short]
    missing = sorted(wanted - set(filled))
    if missing or extra:
        lacks = [entry.file for entry in export(names, missing, partial=True)] or missing
        said = [f"lacks {_list(lacks)}"] if missing else []
        said += [f"holds {_list(sorted(extra))}, which the model has not"] if extra else []
        raise CheckpointError(
            f"{folder} {' and '.join(said)}", "The config and the tensors must describe the same model"
        )
    return Match(entries=tuple(entries), repeats=tuple((a, by_short[b]) for a, b in repeats))


def export(names: Names, parameters: Iterable[str], *, partial: bool = False) -> list[Entry]:
    """The tensors, by their published names, that hold these parameters.

    Args:
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
        entries.append(entry)
        for each in entry.parameters:
            left.pop(each, None)
    return entries


def _short(names: Names, here: Sequence[str], name: str) -> str:
    for old, new in names.old:
        if name.endswith(old):
            name = name[: -len(old)] + new
    prefix = names.prefix
    return name[len(prefix) :] if prefix and name.startswith(prefix) else name


def _entry(rules: Mapping[str, Rule], file: str, short: str) -> Entry | None:
    for pattern, rule in rules.items():
        found = _pattern(pattern).fullmatch(short)
        if found:
            targets, transposed = _targets(rule)
            parameters = tuple(_fill(target, found.groups()) for target in targets)
            return Entry(file=file, parameters=parameters, transposed=transposed)
    return None


def _inverse(names: Names, parameter: str) -> Entry | None:
    for pattern, rule in names.rules.items():
        targets, transposed = _targets(rule)
        for target in targets:
            found = _pattern(target).fullmatch(parameter)
            if found:
                short = _fill(pattern, found.groups())
                bare = any(_pattern(p).fullmatch(short) for p in names.bare)
                file = short if bare else names.prefix + short
                parameters = tuple(_fill(each, found.groups()) for each in targets)
                return Entry(file=file, parameters=parameters, transposed=transposed)
    return None


def _targets(rule: Rule) -> tuple[tuple[str, ...], bool]:
    transposed = isinstance(rule, Transposed)
    if isinstance(rule, Transposed):
        rule = rule.to
    return (rule.into if isinstance(rule, Split) else (rule,)), transposed


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

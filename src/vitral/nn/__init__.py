"""The parts: ids → logits. Imports torch and nothing else of the house above it."""

from vitral.nn.attention import Attention, Cross, Mixer
from vitral.nn.block import Block, Sublayer
from vitral.nn.cache import Cache, KeyValue
from vitral.nn.embed import Concat, Embed, Learned, Sinusoid, Table
from vitral.nn.ffn import GELU, Gated, GELUTanh, Plain, QuickGELU, ReLU, SiLU
from vitral.nn.head import Head, Pooler, Tied, Transform
from vitral.nn.init import initialise
from vitral.nn.kernel import Eager, Fused, Point
from vitral.nn.mask import Causal, Full, Given, Kind, Window
from vitral.nn.model import Model
from vitral.nn.norm import LayerNorm, OverHeads, RMSNorm
from vitral.nn.position import ByWavelength, DynamicNTK, Linear, Position, Rotary, Scaling, Yarn
from vitral.nn.spec import Count, Spec
from vitral.nn.stack import Stack
from vitral.nn.step import Memory, Step, View, full_step

__all__ = [
    "GELU",
    "Attention",
    "Block",
    "ByWavelength",
    "Cache",
    "Causal",
    "Concat",
    "Count",
    "Cross",
    "DynamicNTK",
    "Eager",
    "Embed",
    "Full",
    "Fused",
    "GELUTanh",
    "Gated",
    "Given",
    "Head",
    "KeyValue",
    "Kind",
    "LayerNorm",
    "Learned",
    "Linear",
    "Memory",
    "Mixer",
    "Model",
    "OverHeads",
    "Plain",
    "Point",
    "Pooler",
    "Position",
    "QuickGELU",
    "RMSNorm",
    "ReLU",
    "Rotary",
    "Scaling",
    "SiLU",
    "Sinusoid",
    "Spec",
    "Stack",
    "Step",
    "Sublayer",
    "Table",
    "Tied",
    "Transform",
    "View",
    "Window",
    "Yarn",
    "full_step",
    "initialise",
]

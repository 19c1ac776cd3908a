"""The parts: ids → logits. Imports torch and nothing else of the house above it."""

from vitral.nn.attention import Attention, Cross, Mixer
from vitral.nn.balance import Balance
from vitral.nn.beyond import LogN, SteppedNTK
from vitral.nn.bias import ALiBi, Bucketed, BucketedBothSides
from vitral.nn.block import Block, Sublayer
from vitral.nn.cache import Cache, KeyValue
from vitral.nn.draft import Draft, drafted
from vitral.nn.dual import AtHighest, AtToken, Dual, Last
from vitral.nn.embed import Concat, Embed, Learned, Sinusoid, Table
from vitral.nn.ffn import GELU, Gated, GELUTanh, Plain, QuickGELU, ReLU, SiLU
from vitral.nn.head import Head, Pooler, Score, Shift, Tied, Transform
from vitral.nn.init import initialise
from vitral.nn.kernel import Eager, Fused, Point
from vitral.nn.latent import Latent, LowRank
from vitral.nn.mask import Banded, Causal, Full, Given, Kind, Strided, Window
from vitral.nn.model import Model
from vitral.nn.moe import Experts, GatedExperts, MoE, PlainExperts
from vitral.nn.norm import LayerNorm, OverHeads, RMSNorm
from vitral.nn.parallel import Parallel, Weighed
from vitral.nn.position import ByWavelength, DynamicNTK, Interleaved, Linear, Position, Rotary, Scaling, Yarn
from vitral.nn.relative import Relative
from vitral.nn.router import Grouped, Limited, Renormalised, Router, Routing
from vitral.nn.spec import Count, Spec
from vitral.nn.stack import Stack
from vitral.nn.step import Memory, Soft, Step, View, full_step
from vitral.nn.tiles import Gate, GatedLooking, Looking, TiledTower, TileGrid, TileVector, looking
from vitral.nn.vision import ClassToken, First, Grid, Patches, Pooled, Probe, Sight

__all__ = [
    "GELU",
    "ALiBi",
    "AtHighest",
    "AtToken",
    "Attention",
    "Balance",
    "Banded",
    "Block",
    "Bucketed",
    "BucketedBothSides",
    "ByWavelength",
    "Cache",
    "Causal",
    "ClassToken",
    "Concat",
    "Count",
    "Cross",
    "Draft",
    "Dual",
    "DynamicNTK",
    "Eager",
    "Embed",
    "Experts",
    "First",
    "Full",
    "Fused",
    "GELUTanh",
    "Gate",
    "Gated",
    "GatedExperts",
    "GatedLooking",
    "Given",
    "Grid",
    "Grouped",
    "Head",
    "Interleaved",
    "KeyValue",
    "Kind",
    "Last",
    "Latent",
    "LayerNorm",
    "Learned",
    "Limited",
    "Linear",
    "LogN",
    "Looking",
    "LowRank",
    "Memory",
    "Mixer",
    "MoE",
    "Model",
    "OverHeads",
    "Parallel",
    "Patches",
    "Plain",
    "PlainExperts",
    "Point",
    "Pooled",
    "Pooler",
    "Position",
    "Probe",
    "QuickGELU",
    "RMSNorm",
    "ReLU",
    "Relative",
    "Renormalised",
    "Rotary",
    "Router",
    "Routing",
    "Scaling",
    "Score",
    "Shift",
    "SiLU",
    "Sight",
    "Sinusoid",
    "Soft",
    "Spec",
    "Stack",
    "Step",
    "SteppedNTK",
    "Strided",
    "Sublayer",
    "Table",
    "Tied",
    "TileGrid",
    "TileVector",
    "TiledTower",
    "Transform",
    "View",
    "Weighed",
    "Window",
    "Yarn",
    "drafted",
    "full_step",
    "initialise",
    "looking",
]

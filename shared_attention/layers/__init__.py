"""Layers built on the catalogue."""

from shared_attention.layers.cache import KeyValueCache
from shared_attention.layers.decoder import DecoderLayer
from shared_attention.layers.diff_qkv import DiffQKVAttention
from shared_attention.layers.encoder import EncoderLayer
from shared_attention.layers.multihead import MultiHeadAttention
from shared_attention.layers.positions import RotaryPositions, SinusoidalPositions

__all__ = [
    "DecoderLayer",
    "DiffQKVAttention",
    "EncoderLayer",
    "KeyValueCache",
    "MultiHeadAttention",
    "RotaryPositions",
    "SinusoidalPositions",
]

"""Recipes of a few hundred bytes that cost a reader of YAML more than it has."""

from __future__ import annotations

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(97 + n)}: &{chr(97 + n)} [{','.join([f'*{chr(96 + n)}'] * 9)}]\n" for n in range(1, 9)
)
"""Nine to the ninth values, were its aliases followed."""

ECHO = f"train: &a {{{', '.join(f'{key}: 1' for key in 'abcdefgh')}}}\n" + "".join(
    f"k{n}: [{', '.join(['*a'] * 9)}]\n" for n in range(6)
)
"""Each of its problems, were they listed, would repeat all of it."""

"""Flax modules of the network and its variants, and formulas for their cost.

An array's name ends in one letter per axis. A letter means the same in every file of this package:

    B  texts of a batch                     G  groups of positions: blocks of a text
    T  query positions                      W  positions in a block
    S  key positions                        M  latents
    C  channels                             D  projected keys
    H  heads                                R  rank of factorized scores
    K  channels of a head (C / H)           P  pairs of channels (K / 2)
    F  channels inside the MLP (4 C)        X  score columns that are not positions
    V  characters of the vocabulary         I  channels into a linear layer, O out of it

A digit is an axis of that size. Each file lists the letters that it uses.
"""

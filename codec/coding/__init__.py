"""Quantization and entropy coding of a frame, in integers.

::

    frame (20 ms)   [ level delta ][ envelope: S indices ][ detail: D indices ][ block length ]
                    [ step delta ][ 160 levels ][ 160 levels ]     each level: magnitude, sign

**Only integers reach the range coder.** The decoded envelope is a sum of int16 table rows and an
integer prediction; the step allocation and the context model are small networks with integer
weights and activations. So a packet decodes to the same integers on every machine. The encoder may
use floats to *choose* integers; encoder and decoder run the same compiled functions on them.

Fixed point: logarithms (envelope, steps) are octaves of amplitude x 256 ("Q8"); activations of the
allocation network are Q10, its weights Q12; features of the context model are Q6, its hidden
activations Q8, its weights Q10. Probabilities have 15 bits, code lengths 1/256 bit.

A frame is either predicted from the one before or an *intra* frame that needs no other, with a
coding model (``codec.model.coding_model``) of its own.
"""

"""What is trained: quantizers, networks and the graph of the codec (needs the extra ``[train]``).

``models/*.py`` are the parts of :class:`models.codec_net.CodecNet`; ``models/training`` trains it
and exports its weights. Nothing of it runs when a file is coded.
"""

"""`heed attention benchmark`: what every mechanism costs beside PyTorch's fused softmax attention.

A cell is a mechanism under a mask at a length; it is measured in a process of its own, in turns
with the baseline (`worker`), under limits of time and memory (`running`). What comes out is one
table of rows (`cells.COLUMNS`), from which crossover lengths (`crossover`) and pictures
(`pictures`) are made.
"""

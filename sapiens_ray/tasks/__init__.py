"""Tasks: what the network sees, what becomes of its output, and how it looks.

One module a task. The pipeline asks of a task object only what `tasks.seg.Seg` shows: `options`, `input_kind`,
`fields`, `metadata`, `prepare`, `check_output`, `reduce`, `finish` and `draw`.
"""

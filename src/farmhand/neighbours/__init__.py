"""Other tools on a Farm: what looks like `multiprocessing.Pool`, and a backend of joblib.

`farmhand.Pool` is in `pool`; `import farmhand.joblib` registers what is in `joblib_backend`. What takes an
`Executor` (dask, asyncio) needs nothing of this: a `Farm` is one.
"""

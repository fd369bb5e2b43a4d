"""Persisted operations, and the fast path that answers them by joining bytes made before.

    request      an HTTP request -> which document is meant, and its variables
    manifest     operations known from the start         apq        operations learnt by hash, bounded
    documents    parse and validate by the schema's own rules, once per document
    selection    a document's collected fields           plan       an operation as root fields with known arguments
    fold         a plan + a schedule + a layout -> one bytes template with slots
    fragments    titles as JSON, per selection and artwork, bounded by bytes
    answers      heads, ETags and errors                 fast_path  all of it as an Endpoint

Whatever is not understood for certain falls through to the schema's own execution: the fast path is an answer sooner,
never another one.
"""

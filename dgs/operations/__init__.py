"""Persisted operations, and the fast path that answers them by joining bytes.

    request      an HTTP request -> which document is meant, and its variables
    manifest     operations known from the start         apq          operations learnt by hash, bounded
    documents    parse and validate by the schema's own rules, once per document
    library      manifest, hashes and texts: which document a request means
    selection    a document's collected fields           plan         an operation as root fields with known arguments
    reading      a request's variables as arguments      looking      what classes of requests need, unpaid
    fold         a plan + a schedule + a layout -> one bytes template with slots
    fragments    titles as JSON, per selection and artwork, bounded by bytes
    topics       folds and lifetimes of a schedule       structs      values of the use cases as JSON
    waiting      picks that are not in memory, asked for together
    joining      all of it as one answer                 answers      heads, entity tags and refusals
    use_cases    root fields that are not folded         fast_path    the Endpoint

Whatever is not understood for certain falls through to the schema's own execution: the fast path is an answer sooner,
never another one.
"""

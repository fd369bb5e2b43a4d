"""The GraphQL service that devices prefetch from: stage maps hours before, never at the moment of a broadcast.

model          values: titles, profiles, devices, stage maps (pure)
sources/       tidy, catalog, profiles: a catalog file and viewing histories become values
ranking        content-based recommendations: TF-IDF over genre, director, decade (pure)
stage_map      schedule + ranking + device -> what each stage shows (pure)
ttl            jittered lifetimes that avoid stage times (pure)
artwork        SVG drawn per title, shape and locale, with immutable URLs (pure)
audience       which topic of an event a profile follows (pure)
prefetch       the use cases behind the schema
schema         the federation subgraph; subgraph.graphql is its snapshot
app, http_api  ASGI: /graphql, /artwork, /healthz, /readyz, /metrics, /requests
"""

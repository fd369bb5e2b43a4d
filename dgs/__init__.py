"""The GraphQL service that devices prefetch from: stage maps hours before, never at the moment of a broadcast.

model          values: titles, profiles, devices, stage maps (pure)
sources/       tidy, catalog, profiles: a catalog file and viewing histories become values
catalogs       the catalog in use: titles by place and id, and what ranks them (pure)
ranking        content-based recommendations: TF-IDF over genre, director, decade (pure); recommend: as a source
picks          which titles a profile sees of a topic, as places in the catalog (pure)
stage_map      the stages of a map, their rows and the words above them (pure); words: per language
shelf          recommendations -> picks -> what each stage shows (pure); dressing: titles for a device
cohorts        profiles of like taste (pure); default_picks: what they share when there is nothing of their own
distinct       how many answers there are per stage (pure); answer_budget: no more than that
ttl            jittered lifetimes that avoid stage times (pure)
artwork        SVG drawn per title, shape and locale, with immutable URLs (pure)
audience       which topic of an event a profile follows (pure)
prefetch       the use cases behind the schema
schema         the federation subgraph; subgraph.graphql is its snapshot; loaders: its entities in batches
graphiql       an editor for development, from files of this package
app, http_api  ASGI: /graphql, /artwork, /healthz, /readyz, /metrics, /requests
"""

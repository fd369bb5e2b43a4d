// Shows GraphiQL over this service alone; nothing is loaded from another host.
const started = [
  "# The stage map of an event for one profile. Ctrl-Enter runs it.",
  "query Prefetch($event: ID!, $profile: ID!) {",
  "  prefetchEvent(eventId: $event, profileId: $profile, device: {kind: TV}) {",
  "    event { id title topic startsAt }",
  "    version revision ttlSeconds",
  "    stages { key startsAt headline rows { heading titles { name } } }",
  "  }",
  "}",
  "",
].join("\n");

ReactDOM.createRoot(document.getElementById("graphiql")).render(
  React.createElement(GraphiQL, {
    fetcher: GraphiQL.createFetcher({ url: "/graphql" }),
    defaultQuery: started,
    variables: JSON.stringify({ event: "tyson-paul", profile: "p-1" }, null, 2),
    defaultEditorToolsVisibility: "variables",
  }),
);

// Posts what a page saw to the server it came from: one after the other, so that their order holds.
const parameters = new URLSearchParams(location.search);
let told = Promise.resolve();
function tell(what) {
  const body = JSON.stringify({ ...what, at_ms: performance.now() });
  told = told.then(() => fetch("told", { method: "POST", body }));
}
window.onerror = (message) => tell({ kind: "fault", message: String(message) });

// A router in one worker, as a framework's bundle.
const routes = { "/": () => "home", "/hello": () => "hello" };
var app = {
  fetch(request) {
    const route = routes[new URL(request.url).pathname];
    return route ? new Response(route()) : new Response("no route", { status: 404 });
  },
};
export { app as default };

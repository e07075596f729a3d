const reply = (request) => {
  const body = `<h1>Hello</h1><p>${request.method} ${new URL(request.url).pathname}</p>`;
  return new Response(body);
};

addEventListener("fetch", event => {
  return event.respondWith(reply(event.request));
});

addEventListener("fetch", (event) => {
  event.respondWith(reply(event.request));
});

async function reply(request) {
  const { name } = await request.json();
  return new Response(JSON.stringify({ hello: name }), {
    headers: { "content-type": "application/json; charset=utf-8" },
  });
}

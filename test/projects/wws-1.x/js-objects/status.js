addEventListener("fetch", event => {
  const response = new Response("gone");
  response.status = 410;
  event.respondWith(response);
});

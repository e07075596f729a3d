addEventListener("fetch", event => event.respondWith(new Response(`slug "${event.request.params.slug}"`)));

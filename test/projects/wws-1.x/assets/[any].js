addEventListener("fetch", event => event.respondWith(new Response(`any ${event.request.params.any}`)));

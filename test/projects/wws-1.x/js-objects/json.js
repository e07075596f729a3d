addEventListener("fetch", event => event.respondWith(new Response(`n is ${JSON.parse(event.request.body).n}`)));

addEventListener("fetch", event => event.respondWith(new Response("both: the worker")));

addEventListener("fetch", event => event.respondWith(new Response(`It is ${Cache.get("counter")}`)));

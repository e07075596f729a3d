addEventListener("fetch", event => event.respondWith(Response.redirect("https://example.com/new", 307)));

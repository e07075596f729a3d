addEventListener("fetch", event => event.respondWith(new Response(`${JS_MESSAGE} / ${JS_TOKEN} / ${PRICE}`)));

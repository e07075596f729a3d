addEventListener("fetch", ({ request, respondWith }) => respondWith(new Response(`id ${request.params.id}`)));

export default { fetch: (request) => new Response(`fixed of ${request.params["id"]}`) };

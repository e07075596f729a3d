export default { fetch: () => new Response("fixed") };

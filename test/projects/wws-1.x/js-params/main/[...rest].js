export default { fetch: ({ params }) => new Response(`rest ${params.rest}`) };

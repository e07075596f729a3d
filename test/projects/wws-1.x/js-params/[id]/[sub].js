export default { fetch: ({ params }) => new Response(`${params.id} and ${params.sub}`) };

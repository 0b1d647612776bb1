// Swagger UI in the place of the plain list of routes.
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#routes",
  presets: [SwaggerUIBundle.presets.apis],
  deepLinking: true,
  defaultModelsExpandDepth: -1,
  displayRequestDuration: true,
  docExpansion: "list",
  tryItOutEnabled: true,
  validatorUrl: null,
  plugins: [
    // The header of the page says what Swagger UI would repeat.
    () => ({ wrapComponents: { InfoContainer: () => () => null, ServersContainer: () => () => null } }),
  ],
});

// What both Node gateways listen with: PORT, and TLS 1.3 when CERT names a file with certificate and key.
'use strict';
const fs = require('fs');
const http = require('http');
const https = require('https');

exports.origin = process.env.ORIGIN;
exports.port = Number(process.env.PORT);
exports.tls = process.env.CERT && { cert: fs.readFileSync(process.env.CERT), key: fs.readFileSync(process.env.CERT), minVersion: 'TLSv1.3' };
exports.agent = new http.Agent({ keepAlive: true, maxSockets: Infinity });

exports.serve = (handler) => {
  const server = exports.tls ? https.createServer(exports.tls, handler) : http.createServer(handler);
  server.keepAliveTimeout = 3600e3;
  server.requestTimeout = 0;
  server.listen(exports.port, '127.0.0.1');
  return server;
};

// @fastify/http-proxy, which forwards with undici.
'use strict';
const fastify = require('fastify');
const { origin, port, tls } = require('./server');

const app = fastify({ logger: false, https: tls || null, keepAliveTimeout: 3600e3, bodyLimit: 2 ** 40 });
app.register(require('@fastify/http-proxy'), { upstream: origin, undici: { connections: 256, pipelining: 1 } });
app.listen({ port, host: '127.0.0.1' });

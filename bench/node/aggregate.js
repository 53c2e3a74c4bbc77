// What an Express gateway's author writes by hand: three calls at once, and one answer made of theirs.
'use strict';
const express = require('express');
const { origin, serve } = require('./server');

const json = async (path) => {
  const response = await fetch(origin + path);
  if (!response.ok) throw new Error(`${path} answered ${response.status}`);
  return response.json();
};

const app = express();
app.disable('x-powered-by');
app.get('/dashboard/:id', async (request, response) => {
  const id = encodeURIComponent(request.params.id);
  try {
    const [user, orders, recommendations] = await Promise.all([
      json(`/users/${id}`),
      json(`/orders?userId=${id}`),
      json('/recommendations').catch(() => []),
    ]);
    response.json({ user, recentOrders: orders.slice(0, 5), recommendations });
  } catch (error) {
    response.status(502).json({ error: error.message });
  }
});
serve(app);

# Databricks notebook source
# MAGIC %md
# MAGIC # Asking a bundle
# MAGIC
# MAGIC Recommendations for a few customers: in Python, in DataFrames and in SQL, with their reasons. Import this file
# MAGIC as a notebook, or run it as a script: `MILLRACE_SHOP=out/shop python docs/notebooks/asking_a_bundle.py`. The
# MAGIC folder is what `make demo` leaves: tables, and a run with a bundle. `docs/recommender.md` says all of it.

# COMMAND ----------

import os

from pyspark.sql import SparkSession

from cluster.session import build_session
from jobs.in_sql import register
from jobs.recommender import Recommender
from jobs.trained import latest_bundle

SHOP = os.environ.get("MILLRACE_SHOP", "out/shop")
TABLES, BUNDLE = f"{SHOP}/tables", latest_bundle(f"{SHOP}/run")
spark = SparkSession.getActiveSession() or build_session("asking a bundle")  # a notebook has one

# COMMAND ----------

# MAGIC %md
# MAGIC ## In Python
# MAGIC
# MAGIC No Spark is needed for this part. Customers are looked up in the tables; a history does without them.

# COMMAND ----------

recommender = Recommender.load(BUNDLE, TABLES)
queries = spark.read.format("delta").load(f"{TABLES}/queries").where("split = 'test' AND size(history) > 1")
customers = [row["user_id"] for row in queries.select("user_id").orderBy("user_id").limit(2).collect()]
for customer, items in zip(customers, recommender.recommend(customers, k=3), strict=True):
    print(customer, *(f"\n    {one.name}  {one.score:.3f}" for one in items))

# COMMAND ----------

(first, *_), _ = recommender.recommend(customers, k=3)
(alike,) = recommender.similar_items([first.item_id], k=3)
print("like", first.name, *(f"\n    {one.name}  {one.score:.3f}" for one in alike))
(for_a_basket,) = recommender.recommend(history=[[first.item_id, alike[0].item_id]], ages=[[30, 1]], k=3)
print("after these two", *(f"\n    {one.name}" for one in for_a_basket))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Why
# MAGIC
# MAGIC What each bought item adds to the score, and without which items this one would not be in the list.

# COMMAND ----------

why = recommender.explain(first.item_id, customers[0], k=3)
print(f"{why.name}: {why.score:.3f}, without a history {why.without_history:.3f}")
print(*(f"    {reason.share:+.3f}  {reason.name}" for reason in why.reasons[:5]), sep="\n")
print("it leaves the list without", why.drops_without or "none of the sets that were tried")

# COMMAND ----------

# MAGIC %md
# MAGIC ## In SQL and in DataFrames
# MAGIC
# MAGIC One call makes a table function. Of a bundle that answers rows it makes `score(struct(*))` instead. Everybody is
# MAGIC scored by the job: `millrace score`.

# COMMAND ----------

register(spark, BUNDLE, tables=TABLES)
queries.where(queries["user_id"].isin(customers)).select("user_id").createOrReplaceTempView("customers")
spark.sql("SELECT user_id, r.* FROM customers, LATERAL recommend(user_id, 3) r ORDER BY user_id, rank").show()

# COMMAND ----------

rows = [(1, [first.item_id]), (2, [one.item_id for one in alike])]
baskets = spark.createDataFrame(rows, "basket int, items array<string>")
baskets.createOrReplaceTempView("baskets")
asked = spark.sql("SELECT basket, r.* FROM baskets, LATERAL recommend(items, 3) r")
asked.groupBy("basket").avg("score").orderBy("basket").show()
